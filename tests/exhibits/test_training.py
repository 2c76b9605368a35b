"""Runs that claims share: made once, and again where they came to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.documents import GrainlineError, Recipe
from grainline.exhibits import training
from grainline.exhibits.frame import Scale
from grainline.exhibits.training import trained


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.parse(
        {
            "model": {"depth": 2},
            "data": {"vocab_size": 300, "sequence_length": 32, "max_bytes": 60_000},
            "training": {"steps": 2, "batch_tokens": 64},
            "learning_rate": {"peak": 0.01},
            "validation": {"max_sequences": 4},
        }
    )


def test_a_run_that_failed_is_made_by_the_next_claim(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    scale = Scale(quick=True, seeds=(0,), folder=tmp_path, tell=told.append)

    def fails(recipe: Recipe, out: Path) -> str:
        out.mkdir(parents=True)
        raise GrainlineError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(training, "_train", fails)
        with pytest.raises(GrainlineError, match="disk is full"):
            trained([recipe], scale)
    [run] = trained([recipe], scale)
    assert len(run.metrics) == 2
    assert trained([recipe, recipe], scale) == [run, run]
    assert len(told) == 1
