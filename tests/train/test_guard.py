"""The guard: NaN at once, spikes with patience, and what it leaves behind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grainline.documents.recipe import Guard as GuardRecipe
from grainline.train.guard import Guard, keep_batch

RECIPE = GuardRecipe(spike_factor=2.0, spike_patience=3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stops_at_once(bad: float) -> None:
    trouble = Guard(RECIPE).check(bad, 1.0)
    assert trouble is not None
    assert "loss" in trouble.what
    trouble = Guard(RECIPE).check(1.0, bad)
    assert trouble is not None
    assert "gradient norm" in trouble.what


def test_the_first_router_without_numbers_is_named() -> None:
    entropies = {"layer 0": 1.2, "layer 3": math.nan, "the MTP layer": math.nan}
    trouble = Guard(RECIPE).check(math.nan, math.nan, entropies)
    assert trouble is not None
    assert trouble.what == "the logits of the router of layer 3 are no numbers (and the loss is nan)"
    assert Guard(RECIPE).check(1.0, 1.0, {"layer 0": 1.2}) is None


def test_a_spike_is_forgiven_until_it_lasts() -> None:
    guard = Guard(RECIPE)
    for _ in range(10):
        assert guard.check(4.0, 1.0) is None
    assert [guard.check(9.0, 1.0) for _ in range(2)] == [None, None]
    assert guard.check(4.0, 1.0) is None  # recovered: the count starts over
    assert [guard.check(9.0, 1.0) for _ in range(2)] == [None, None]
    trouble = guard.check(9.0, 1.0)
    assert trouble is not None
    assert "2 times its running median 4" in trouble.what
    assert trouble.median_loss == 4.0


def test_it_remembers_over_a_resume() -> None:
    guard = Guard(RECIPE)
    losses = [4.0] * 5 + [9.0, 9.0]
    for loss in losses:
        guard.check(loss, 1.0)
    resumed = Guard(RECIPE, **json.loads(json.dumps(guard.memory())))
    assert resumed.check(9.0, 1.0) == guard.check(9.0, 1.0)
    assert guard.check(9.0, 1.0) is not None


def test_the_batch_and_the_facts_are_kept(tmp_path: Path) -> None:
    ids_BS1 = torch.arange(12).view(2, 6)
    path = keep_batch(tmp_path / "guard", 1, 42, ids_BS1, {"loss": 5.0})
    assert torch.equal(load_file(path)["ids_BS1"], ids_BS1)
    assert json.loads(path.with_suffix(".json").read_text()) == {"step": 42, "loss": 5.0}
