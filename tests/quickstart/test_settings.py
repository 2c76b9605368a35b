"""`--set` of the quickstart: one key for each kind of router, expert and attention, and errors that say what to do."""

from __future__ import annotations

from typing import Any

import pytest

from grainline.cli import main
from grainline.documents import DocumentError, GrainlineError, ModelConfig
from grainline.documents.moe import Feature
from grainline.models.count import parameters
from grainline.models.dial import config_for_depth, dense_twin
from grainline.models.moe.routers import ROUTERS
from grainline.quickstart.budget import Budget, recipe_for
from grainline.quickstart.options import Options
from grainline.quickstart.settings import sparse_config

ONE_SET: dict[Feature, str] = {
    "bottleneck": "moe.expert=bottleneck",
    "costless": "moe.constant=auto",
    "reuse": "moe.reuse=2",
    "groups": "moe.groups=4",
    "capacity": "moe.capacity=1.25",
    "bias_balanced": "moe.bias_balanced=true",
}


def made(*settings: str, depth: int = 3) -> ModelConfig:
    return sparse_config(depth, 4096, 256, settings)


def test_nothing_set_is_the_dial() -> None:
    assert made() == config_for_depth(3, 4096, 256)


@pytest.mark.parametrize("depth", [2, 3, 5, 8, 12])
@pytest.mark.parametrize("kind", ROUTERS)
def test_one_key_is_enough_for_every_router(kind: str, depth: int) -> None:
    config = made(f"moe.router={kind}", depth=depth)
    assert config.moe is not None
    assert config.moe.router == kind
    assert config.moe.bias_balanced == (kind != "expert-choice")


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 12])
@pytest.mark.parametrize("feature", ONE_SET)
def test_one_key_is_enough_for_every_feature(feature: Feature, depth: int) -> None:
    config = made(ONE_SET[feature], depth=depth)
    assert config.moe is not None
    assert feature in config.moe.features
    twin = dense_twin(config)
    assert twin.moe is None
    assert parameters(twin).active == pytest.approx(parameters(config).active, rel=0.05)


@pytest.mark.parametrize("kind", ["cca", "mla"])
def test_one_key_is_enough_for_every_attention(kind: str) -> None:
    assert made(f"attention.kind={kind}").attention.kind == kind
    assert made("residual_scaling=true").residual_scaling


def test_what_a_person_sets_beside_it_stands() -> None:
    config = made("moe.router=depth-averaged", "moe.router_hidden=24", "moe.bias_balanced=false")
    assert config.moe is not None
    assert (config.moe.router_hidden, config.moe.bias_balanced) == (24, False)
    shared = made("moe.reuse=2", "mtp_depth=0", "moe.dense_layers=[2]")
    assert (shared.mtp_depth, shared.sparse_layers) == (0, (0, 1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("moe.router=expert-choise",), "moe.router: must be"),
        (("moe.rooter=expert-choice",), "Did you mean 'router'"),
        (("moe.router=expert-choice", "moe.bias_balanced=true"), "evenly loaded by construction"),
        (("moe.router=expert-choice", "moe.zero=1"), "doesn't go with costless"),
        (("moe.reuse=7",), "doesn't divide"),
        (("moe.top_k=33",), "more than the 32 experts"),
        (("moe.groups=5",), "multiple of groups"),
        (("moe=3",), "must be a table"),
    ],
)
def test_mistakes_are_told_as_those_of_a_document(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(DocumentError, match=said) as caught:
        made(*settings)
    assert str(caught.value).startswith("--set")


def test_an_assignment_is_wanted() -> None:
    with pytest.raises(GrainlineError, match="write KEY=VALUE"):
        made("moe.router")


def test_the_command_line_says_it_before_anything_is_made(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["quickstart", "--minutes", "1", "--out", str(out), "--set", "moe.router=expert-choise"]) == 2
    assert "moe.router: must be 'sigmoid-topk'" in capsys.readouterr().err
    assert not out.exists() or not list(out.iterdir())


def test_options_remember_what_was_set() -> None:
    assert "set" not in Options().tables()
    assert Options(set=("moe.reuse=2",)).tables()["set"] == ["moe.reuse=2"]


def test_what_has_no_bias_has_a_loss_for_balance() -> None:
    budget = Budget(3, 40, 4096, 256, 0.01, "float32", 1e6, 1.0, 1.0)

    def coefficient(*settings: str) -> float:
        return recipe_for(budget, made(*settings), ("builtin",), "tok", None, 0).loss.balance_loss

    assert coefficient() == coefficient("moe.router=expert-choice") == 0.0
    assert coefficient("moe.bias_balanced=false") == 0.01
