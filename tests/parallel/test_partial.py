"""Partial pipelines of real processes: each micro-batch's gradients are those of its own order of layers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from grainline.documents import Plan, Recipe
from grainline.parallel.pipeline.reduce import SharedGradients
from grainline.parallel.pipeline.visits import mean_over_visits, visited_shares
from grainline.schedule import Hop
from grainline.schedule.members.partial import in_unit_times, partial
from grainline.train import read_metrics, train

CASES = ("a stage skipped", "sums", "experts, and MTP at home", "nothing skipped")
TABLES = {
    "model": {"depth": 3},
    "data": {"text": ["builtin"], "vocab_size": 300, "sequence_length": 32, "max_bytes": 60_000},
    "training": {"steps": 3, "batch_tokens": 384},
    "learning_rate": {"peak": 0.01, "warmup_steps": 2},
    "loss": {"mtp_every": 2},
    "precision": {"compute": "float32"},
    "validation": {"every": 3, "max_sequences": 5},
    "checkpoint": {"every": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks found, and their runs beside that of one process."""
    folder = tmp_path_factory.mktemp("partial")
    recipe = Recipe.parse(TABLES)
    recipe.save(folder / "recipe.toml")
    alone = Plan.parse({"execution": {"threads": 1, "micro_batch_sequences": 4}})
    train(recipe, alone, out=folder / "alone", data=folder / "data", quiet=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    ended = subprocess.run(
        [*torchrun, str(Path(__file__).parent / "partial_worker.py"), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr[-5000:]
    return folder


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_the_paths_in_one_process(folder: Path, name: str) -> None:
    for rank in range(4):
        here: dict[str, Any] = json.loads((folder / f"found-{rank}.json").read_text())[name]
        wrong = {parameter: d for parameter, d in here["gradients"].items() if not d < 1e-9}
        assert not wrong, (rank, wrong)
        assert here["loss"] < 1e-7  # the cross-entropy is summed in float32
        assert here["order kept"]
        assert here["lengths"] == [4 if name == "nothing skipped" else 3]  # the head's stage counts


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_plan_of_whole_paths_trains_what_one_process_does(folder: Path) -> None:
    alone, whole = (read_metrics(folder / name / "metrics.jsonl") for name in ("alone", "whole"))
    for one, other in zip(alone, whole, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert whole[-1]["validation_bits_per_byte"] == pytest.approx(alone[-1]["validation_bits_per_byte"], rel=1e-4)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_partial_plan_trains_and_is_scored_with_all_stages(folder: Path) -> None:
    """The saved model is whole, and one process scores it as the four ranks have done along straight paths."""
    from grainline.models.loading import load
    from grainline.models.loss import loss_sums

    metrics = read_metrics(folder / "partial" / "metrics.jsonl")
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    model, _ = load(folder / "partial" / "model")
    recipe = Recipe.load(folder / "recipe.toml")
    from grainline.data import TokenDataset

    held_out = TokenDataset.open(folder / "data" / "packed", "valid", recipe.data.sequence_length)
    with torch.no_grad():
        sums = loss_sums(model, torch.from_numpy(held_out.sequences(0, 5)))
    assert metrics[-1]["validation_loss"] == pytest.approx(float(sums.cross_entropy) / sums.tokens, rel=1e-3)


def test_means_are_over_visits_and_none_moves_nothing() -> None:
    paths = [(Hop(0, 0), Hop(1, 0), Hop(3, 0)), (Hop(0, 0), Hop(3, 0))]
    schedule = partial(paths, in_unit_times(paths), 1)
    stages = {"embedding": frozenset({0, 3}), "blocks.0": frozenset({1}), "blocks.1": frozenset({2})}
    assert visited_shares(schedule, stages) == {"embedding": 1.0, "blocks.0": 0.5, "blocks.1": 0.0}
    parameters = {name: nn.Parameter(torch.ones(2)) for name in ("embedding.w", "blocks.0.w", "blocks.1.w")}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1, weight_decay=0.5)
    for parameter in parameters.values():
        parameter.grad = torch.full((2,), 3.0)
    mean_over_visits(schedule, cast(SharedGradients, SimpleNamespace(stages=stages, parameters=parameters)))
    assert [None if p.grad is None else p.grad[0].item() for p in parameters.values()] == [3.0, 6.0, None]
    optimizer.step()
    assert torch.equal(parameters["blocks.1.w"], torch.ones(2))
    assert parameters["blocks.1.w"] not in optimizer.state
    assert not torch.equal(parameters["blocks.0.w"], torch.ones(2))
