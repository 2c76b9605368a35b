"""Ranks that exhibits start: what they find comes back by rank, and one that fails ends them all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grainline.exhibits import processes
from grainline.exhibits.frame import NotRun
from grainline.exhibits.processes import run_ranks

if TYPE_CHECKING:
    from grainline.parallel.pipeline import Connection

pytestmark = pytest.mark.multiprocess


def found_by(task: str, connection: Connection, folder: Path) -> dict[str, Any]:
    """Its own process, core and thread; or a failure of rank 1, for which rank 0 would wait for a minute."""
    import torch

    if task == "fail":
        if connection.rank == 1:
            raise ValueError("as asked")
        time.sleep(60)
    return {
        "task": task,
        "rank": connection.rank,
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "cores": sorted(os.sched_getaffinity(0)),
        "begun_under_the_rule": (folder.parent / "rule").exists(),
    }


def test_each_rank_works_under_the_rule_on_its_core(tmp_path: Path) -> None:
    pids: list[int] = []

    @contextmanager
    def rule(of: Sequence[int]) -> Iterator[None]:
        pids.extend(of)
        (tmp_path / "rule").touch()
        yield

    found = run_ranks(found_by, "work", 2, tmp_path, rule=rule)
    assert [each["rank"] for each in found] == [0, 1]
    assert [each["pid"] for each in found] == pids
    cores = sorted(os.sched_getaffinity(0))
    for rank, each in enumerate(found):
        assert (each["task"], each["threads"], each["begun_under_the_rule"]) == ("work", 1, True)
        assert each["cores"] == [cores[rank % len(cores)]]


def test_a_rank_that_fails_ends_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="rank 1 of 2 ended with 1"):
        run_ranks(found_by, "fail", 2, tmp_path)
    assert "as asked" in capfd.readouterr().err


def test_too_few_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_cores", lambda: [3])
    processes.need_cores(1)
    with pytest.raises(NotRun, match="2 ranks need a core each, and this process may use 1"):
        processes.need_cores(2)
