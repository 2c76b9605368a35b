"""A rank that dies, hangs or fails in the middle of a step: the others stop in time, and say whose fault it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
from pipeline_failure import CULPRIT, TIMEOUT_SECONDS

from grainline.parallel.pipeline.failure import GRACE_SECONDS

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

RANKS = 3
HOW = {"dies": "Rank 0 has died or hangs", "hangs": "Rank 0 has died or hangs", "fails": "no room for a block"}
SLACK_SECONDS = 3.0


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each rank that outlived the step said, and when; all ways to fail go on side by side."""
    folder = tmp_path_factory.mktemp("failure")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    worker = str(Path(__file__).parent / "pipeline_failure.py")
    started = [
        subprocess.Popen(
            [sys.executable, worker, str(folder), how, str(rank), str(RANKS), str(store.port)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for how in HOW
        for rank in range(RANKS)
    ]
    # The culprit, first of each three, may hang for longer than anybody wants to wait.
    errors = [process.communicate(timeout=120)[1] for i, process in enumerate(started) if i % RANKS != CULPRIT]
    for culprit in started[CULPRIT::RANKS]:
        culprit.kill()
        culprit.communicate()
    said = {}
    for how in HOW:
        files = [folder / f"{how}-{rank}.json" for rank in range(RANKS) if rank != CULPRIT]
        assert all(file.exists() for file in files), "\n".join(e[-2000:] for e in errors)
        said[how] = [json.loads(file.read_text()) for file in files]
    return said


@pytest.mark.parametrize("how", HOW)
def test_the_others_stop_in_time_and_name_rank_and_action(found: dict[str, list[dict[str, Any]]], how: str) -> None:
    for rank, here in enumerate(found[how], 1):
        assert here["said"].startswith(f"Rank {rank} stopped at "), here
        assert HOW[how] in here["said"], here
        assert f"←{rank - 1}" in here["said"] or f"←{rank + 1}" in here["said"], here
        assert here["seconds"] < TIMEOUT_SECONDS + 2 * GRACE_SECONDS + SLACK_SECONDS, here
