"""Every router and kind of expert trains, goes on bit-equal, tells of its balance, and stops at what is no number."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
from expert_cases import NEEDS, WITH, allowed

import grainline
from grainline.documents import GrainlineError, ModelConfig, Plan, Recipe
from grainline.documents.moe import Moe
from grainline.models.dial import config_for_depth
from grainline.models.moe import idle
from grainline.models.moe.routers import ROUTERS
from grainline.models.moe.token_rounding import check_tiles
from grainline.train import TrainingDiverged, TrainingInterrupted, read_metrics, train
from grainline.train.loop import Loop

MakeRecipe = Callable[..., Recipe]
TWO_ROWS = Plan.parse({"execution": {"threads": 1, "micro_batch_sequences": 2}})


def model(kind: Any, features: Any) -> ModelConfig:
    """The dial's smallest, with three sparse layers where they are to share experts; tiles of two rows."""
    tables = config_for_depth(2, 300, 32).tables()
    moe = tables["moe"] | {"router": kind, "bias_balanced": False, "dense_layers": [], **NEEDS.get(kind, {})}
    moe |= {"experts": 8, "expert_hidden": 8}
    for feature in features:
        moe |= WITH[feature]
    if kind == "depth-averaged":
        moe |= {"router_hidden": 8}
    if "reuse" in features:
        moe |= {"reuse": 3}
    return ModelConfig.parse(tables | {"moe": moe})


@pytest.fixture(params=ROUTERS)
def recipe(request: pytest.FixtureRequest, tiny: MakeRecipe) -> Recipe:
    """Each router with all that it goes with at once."""
    kind: Any = request.param
    return tiny(
        model={"depth": None, "config": model(kind, allowed(kind)[-1]).tables()},
        training={"steps": 4},
        loss={"z_loss": 1e-3, "balance_loss": 1e-2},
        validation={"every": 2},
        checkpoint={"every": 1},
    )


def curve(out: Path) -> list[str]:
    keys = (
        "loss",
        "mtp_loss",
        "z_loss",
        "balance_loss",
        "grad_norm",
        "imbalance",
        "entropy",
        "loads",
        "validation_loss",
    )
    return [json.dumps([line.get(key) for key in keys]) for line in read_metrics(out / "metrics.jsonl")]


def test_it_trains_and_goes_on_bit_equal(
    recipe: Recipe, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe.model.config
    assert config is not None
    assert config.moe is not None
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    result = train(recipe, TWO_ROWS, out=whole, data=data, quiet=True)
    lines = read_metrics(whole / "metrics.jsonl")
    layers = len(config.sparse_layers)
    for line in lines:
        assert math.isfinite(line["loss"])
        assert line["balance_loss"] > 0.5
        assert line["z_loss"] > 0
        assert len(line["imbalance"]) == len(line["entropy"]) == len(line["loads"]) == layers
        assert all(1 <= value <= config.moe.pool for value in line["imbalance"])
        assert all(0 < value < math.log(config.moe.choices) + 1e-5 for value in line["entropy"])
        assert all(len(row) == config.moe.choices for row in line["loads"])
        assert ("costless" in line) == (config.moe.costless > 0)
    with monkeypatch.context() as patch:
        tell = Loop._tell

        def stopping(loop: Loop, line: dict[str, Any], seconds_left: float) -> None:
            tell(loop, line, seconds_left)
            if line["step"] == 2:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(Loop, "_tell", stopping)
        with pytest.raises(TrainingInterrupted):
            train(recipe, TWO_ROWS, out=broken, data=data, quiet=True)
    assert train(recipe, TWO_ROWS, out=broken, data=data, quiet=True).resumed_from in (2, 3)
    assert curve(whole) == curve(broken)
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (whole, broken))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    loaded, tokenizer = grainline.load(result.model)
    assert loaded.config.moe == config.moe.model_copy(update={"dense_layers": loaded.config.moe.dense_layers})
    assert list(loaded.generate(tokenizer.encode("The"), max_new_tokens=3))


def test_a_router_that_is_no_number_is_named(
    recipe: Recipe, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 3 a weight of the second layer's router is NaN: its step and layer are told, and no later layer's."""
    gradients = Loop._gradients

    def poisoned(loop: Loop, step: int) -> Any:
        if step == 3:
            with torch.no_grad():
                loop.setup.model.blocks[1].ffn.router.weight_ED[0, 0] = math.nan  # type: ignore[union-attr, index]
        return gradients(loop, step)

    monkeypatch.setattr(Loop, "_gradients", poisoned)
    with pytest.raises(
        TrainingDiverged, match=r"Stopped at step 3: the logits of the router of layer 1 are no numbers"
    ):
        train(recipe, TWO_ROWS, out=tmp_path, data=data, quiet=True)
    assert (tmp_path / "guard" / "step-00000003-rank-0.safetensors").is_file()


def test_loads_of_costless_experts_are_apart(tiny: MakeRecipe, data: Path, tmp_path: Path) -> None:
    config = model("softmax-topk", ("costless",))
    made = tiny(model={"depth": None, "config": config.tables()}, training={"steps": 3})
    train(made, TWO_ROWS, out=tmp_path, data=data, quiet=True)
    for line in read_metrics(tmp_path / "metrics.jsonl"):
        for layer, row in enumerate(line["loads"]):
            of_weights, costless = row[:8], row[8:]
            assert line["imbalance"][layer] == pytest.approx(max(of_weights) * 8 / sum(of_weights))
            assert line["costless"][layer] == pytest.approx(sum(costless) / sum(row))


def test_entropy_is_of_the_tokens_a_router_saw(tiny: MakeRecipe, data: Path, tmp_path: Path) -> None:
    """MTP learns from one sequence in three here: of a new model all entropies are about that of even scores."""
    made = tiny(
        model={"depth": None, "config": model("softmax-topk", ()).tables()},
        training={"steps": 6},
        learning_rate={"peak": 1e-6},
        loss={"mtp_every": 3},
    )
    train(made, TWO_ROWS, out=tmp_path, data=data, quiet=True)
    seen = [line["entropy"][-1] for line in read_metrics(tmp_path / "metrics.jsonl") if line["imbalance"][-1]]
    unseen = [line["entropy"][-1] for line in read_metrics(tmp_path / "metrics.jsonl") if not line["imbalance"][-1]]
    assert seen
    assert all(0.8 * math.log(8) < value < math.log(8) + 1e-5 for value in seen)
    assert all(value == 0 for value in unseen)


def test_tiles_that_are_too_large_are_told(tiny: MakeRecipe, data: Path, tmp_path: Path) -> None:
    moe = Moe(experts=8, top_k=2, expert_hidden=4, router="token-rounding", tile=16)
    assert check_tiles(moe, 128) is None
    assert "an expert gets 24 tokens on average, less than two tiles" in (check_tiles(moe, 96) or "")
    assert check_tiles(moe.model_copy(update={"router": "softmax-topk"}), 1) is None
    tables = model("token-rounding", ()).tables()
    tables["moe"]["tile"] = 65
    made = tiny(model={"depth": None, "config": tables}, training={"steps": 3})
    with pytest.raises(GrainlineError, match=r"moe.tile 65 is more than the 64 tokens of a micro-batch"):
        train(made, TWO_ROWS, out=tmp_path, data=data, quiet=True)


def test_experts_that_tiles_round_away_are_told_of(
    tiny: MakeRecipe, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No expert is chosen by all 64 tokens, so tiles of 64 drop every choice; loads still tell what was chosen."""
    monkeypatch.setattr(idle, "PATIENCE", 3)
    tables = model("token-rounding", ()).tables()
    tables["moe"] |= {"tile": 64, "rounding": "down"}
    made = tiny(model={"depth": None, "config": tables}, training={"steps": 5}, loss={"balance_loss": 0.1})
    train(made, TWO_ROWS, out=tmp_path, data=data)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["idle"] for line in lines] == [[0.0, 0.0, 0.0]] * 2 + [[1.0, 1.0, 1.0]] * 3
    assert all(sum(row) > 0 for line in lines for row in line["loads"])
    said = [line for line in capfd.readouterr().err.splitlines() if "No rows for 3 steps" in line]
    assert len(said) == 1
    assert "Step 3: " in said[0]
    assert "layer 0: 0, 1, 2, 3, 4, 5, 6, 7; layer 1: 0" in said[0]
    assert "smaller moe.tile" in said[0]


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_router_that_is_no_number_is_named_where_blocks_are_computed_again(
    kind: Any, tiny: MakeRecipe, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = Loop._gradients

    def poisoned(loop: Loop, step: int) -> Any:
        with torch.no_grad():
            loop.setup.model.blocks[1].ffn.router.weight_ED[0, 0] = math.inf  # type: ignore[union-attr, index]
        return gradients(loop, step)

    monkeypatch.setattr(Loop, "_gradients", poisoned)
    made = tiny(model={"depth": None, "config": model(kind, allowed(kind)[-1]).tables()}, training={"steps": 3})
    plan = Plan.parse({"execution": {"threads": 1, "micro_batch_sequences": 2, "recompute": "block"}})
    with pytest.raises(
        TrainingDiverged, match=r"Stopped at step 1: the logits of the router of layer 1 are no numbers"
    ):
        train(made, plan, out=tmp_path, data=data, quiet=True)
