"""How exhibits start ranks: processes with one thread each, on a core of their own as far as there are, over gloo."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grainline.exhibits.frame import NotRun

if TYPE_CHECKING:
    from grainline.parallel.pipeline import Connection

T = TypeVar("T")
Work = Callable[[T, "Connection", Path], Any]
"""(task, this rank's connection, a folder that all ranks share) → what this rank found, as plain values."""
Rule = Callable[[Sequence[int]], AbstractContextManager[object]]
"""Of the processes' ids: what holds from before they begin until they have ended, such as that one of them is slow."""

TIMEOUT_SECONDS = 300.0
POLL_SECONDS = 0.2


@contextmanager
def no_rule(pids: Sequence[int]) -> Iterator[None]:
    """All are left alone."""
    yield


def run_ranks(work: Work[T], task: T, ranks: int, folder: Path, *, rule: Rule = no_rule) -> list[Any]:
    """Start so many processes and wait until `work` is done in all of them; what each found, by rank.

    `work` must be a function of a module, and `task` fit to be sent to another process. Raises RuntimeError if a rank
    fails; the others are ended then.
    """
    folder = folder / f"ranks-{time.time_ns()}"
    folder.mkdir(parents=True)
    context = get_context("spawn")
    ready, begin = context.Semaphore(0), context.Event()
    workers = [
        context.Process(target=_worker, args=(work, task, rank, ranks, folder, ready, begin), daemon=True)
        for rank in range(ranks)
    ]
    try:
        for rank, worker in enumerate(workers):
            worker.start()
            _pin(worker, rank)
        for _ in workers:
            while not ready.acquire(timeout=POLL_SECONDS):
                _check(workers)
        with rule([worker.pid or 0 for worker in workers]):
            begin.set()
            _wait(workers)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def need_cores(count: int) -> None:
    """Raises NotRun where there are fewer."""
    if len(_cores()) < count:
        raise NotRun(f"{count} ranks need a core each, and this process may use {len(_cores())}")


def _wait(workers: Sequence[SpawnProcess]) -> None:
    """Until all have ended; RuntimeError as soon as one fails."""
    left = list(workers)
    while left:
        wait([worker.sentinel for worker in left])
        _check(workers)
        left = [worker for worker in left if worker.exitcode is None]


def _check(workers: Sequence[SpawnProcess]) -> None:
    for rank, worker in enumerate(workers):
        if worker.exitcode:
            raise RuntimeError(f"rank {rank} of {len(workers)} ended with {worker.exitcode}")


def _worker(work: Work[T], task: T, rank: int, ranks: int, folder: Path, ready: Semaphore, begin: Event) -> None:
    ready.release()
    begin.wait()
    import torch
    import torch.distributed as dist

    from grainline.parallel.pipeline import Connection, Grid

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    connection = Connection(Grid(ranks), torch.device("cpu"), timeout_seconds=TIMEOUT_SECONDS)
    found = work(task, connection, folder)
    connection.close()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def _pin(worker: SpawnProcess, rank: int) -> None:
    from grainline.hardware.unequal import NotAllowed, pin

    cores = _cores()
    if cores and worker.pid is not None:
        with suppress(NotAllowed, ProcessLookupError):
            pin(worker.pid, cores[rank % len(cores)])


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
