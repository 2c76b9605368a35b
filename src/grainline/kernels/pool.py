"""The threads of the compiled core beside torch: as many as torch uses, and where it can be, the same ones.

torch's CPU threads are OpenMP's. After each of its ops they wait actively for the next one for some milliseconds, so a
second pool on the same cores would get half of each. The compiled core therefore borrows them (`native/team.h`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from pathlib import Path

import torch

from grainline import _compiled
from grainline.documents import GrainlineError
from grainline.kernels.executor import MISSING, Executor
from grainline.kernels.targets import ANYWHERE, Target

IMPORTED_IN = os.getpid()
"""OpenMP's threads don't survive a fork: only the process that has begun borrows them."""


class Team(Executor):
    """Workers of which the calling thread is one. Which of them does a block isn't fixed (`native/team.h`).

    Several threads may use one team at once. `seen` tells of the last call that had the team for itself.
    """

    def __init__(self, workers: int, borrowed: bool = True) -> None:
        """`borrowed`: torch's threads where they are OpenMP's. Raises GrainlineError where the core is missing."""
        new = _compiled.function("gl_team_new", [ctypes.c_int64, ctypes.c_void_p], ctypes.c_void_p)
        if new is None:
            raise GrainlineError(MISSING)
        lend = openmp() if borrowed and os.getpid() == IMPORTED_IN else None
        self.target = Target("cpu", "cpu", (ANYWHERE,) * workers, (0,) * workers)
        self.borrowed = lend is not None
        self._process = os.getpid()
        self._handle = new(workers, lend)
        if self._handle is None:
            raise GrainlineError(f"threads: the system gives no {workers - 1} more.")


@functools.cache
def openmp() -> int | None:
    """Address of the function by which torch's OpenMP runs something on its threads; None where it hasn't got it."""
    libraries = [ctypes.CDLL(None)]  # as the linker looked for it: what is there for all first, then what torch brings
    brought = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if brought.is_file():
        libraries.append(ctypes.CDLL(str(brought)))
    for library in libraries:
        found = getattr(library, "GOMP_parallel", None)
        if found is not None:
            return ctypes.cast(found, ctypes.c_void_p).value
    return None


_lock = threading.Lock()
_teams: dict[tuple[int, int], Team | None] = {}
"""(process, torch's number of threads) → its team. A process has few such numbers in its life."""


def pool() -> Team | None:
    """Workers of torch.get_num_threads(), at most one per core that the process may use; the same team each time.

    None where the compiled core is missing, or one thread is wanted: then the calling thread does it all. The cores are
    counted when the number is new.
    """
    key = os.getpid(), torch.get_num_threads()
    if key not in _teams:
        with _lock:
            if key not in _teams:
                workers = min(key[1], usable_cores())
                _teams[key] = Team(workers) if workers > 1 and _compiled.library() is not None else None
    return _teams[key]


def handle() -> int | None:
    """That of `pool` for C functions; None: on the calling thread."""
    team = pool()
    return None if team is None else team.handle


def usable_cores() -> int:
    """Logical CPUs that the process may use now."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forget_lock() -> None:
    """A fork may come while another thread holds it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)
