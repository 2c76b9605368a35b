"""A pipeline with vocabulary passes computes what one process does, in any schedule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from pipeline_cases import VOCABULARY
from vocabulary_cases import WORLDS, VocabularyCase

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

CASES = [(world, name) for world, cases in WORLDS.items() for name in cases]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ranks have left what they found; one start for each world."""
    folder = tmp_path_factory.mktemp("vocabulary")
    worker = Path(__file__).parent / "vocabulary_worker.py"
    for world in WORLDS:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
        ended = subprocess.run(
            [*torchrun, str(worker), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert ended.returncode == 0, ended.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """What each rank found, by world."""
    return {
        world: [json.loads((folder / f"found-{world}-{rank}.json").read_text()) for rank in range(world)]
        for world in WORLDS
    }


@pytest.mark.parametrize(("world", "name"), CASES)
def test_loss_and_every_gradient_equal_one_process(
    found: dict[int, list[dict[str, Any]]], world: int, name: str
) -> None:
    case: VocabularyCase = WORLDS[world][name]
    of_ranks = [of_rank[name] for of_rank in found[world]]
    tolerance = TOLERANCE[case.dtype]
    for rank, here in enumerate(of_ranks):
        wrong = {parameter: d for parameter, d in here["gradients"].items() if not d < tolerance}
        assert not wrong, (rank, wrong)
        assert here["loss"] < max(tolerance, 1e-8)  # routers sum their terms in float32
        assert here["counts"], rank
        if case.evaluates:
            assert here["left"] == 0
    assert not set.intersection(*(set(here["missing"]) for here in of_ranks))


@pytest.mark.parametrize(("world", "name"), CASES)
def test_every_rank_has_its_rows_and_notes_its_passes(
    found: dict[int, list[dict[str, Any]]], world: int, name: str
) -> None:
    of_ranks = [of_rank[name] for of_rank in found[world]]
    replicas = WORLDS[world][name].replicas
    for table in of_ranks[0]["rows"]:
        assert sum(here["rows"][table] for here in of_ranks) == VOCABULARY * replicas
    assert all(here["noted"] for here in of_ranks)


def test_a_rank_that_misses_a_collective_ends_the_step_by_name(folder: Path) -> None:
    said = (folder / "alone-0.txt").read_text()
    assert "Rank 0 stopped at F0.0" in said
    assert "C_EMBED.0" in said
