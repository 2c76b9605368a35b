"""How work is launched on a CPU target: `native/executor.h`, one thread on each of its cores."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from grainline import _compiled
from grainline.documents import GrainlineError
from grainline.kernels.targets import Target

MISSING = (
    "the compiled core isn't there, so there are no native kernels. `grainline doctor` says what to install; "
    "then `python -m pip install .` builds it."
)


@dataclass(frozen=True)
class Seen:
    """What a worker did last: its thread, the CPU it ran on (-1: not told), and its block of the range."""

    thread: int
    cpu: int
    begin: int
    end: int


class Executor:
    """The workers of a CPU target. They sleep while there is nothing to do, and end with `close` or the `with` block.

    Worker i of m gets the block [⌊i·n/m⌋, ⌊(i+1)·n/m⌋) of a range of n. Memory that an executor has touched first is
    therefore next to the cores that read it later, as long as the executor and the length are the same.
    """

    def __init__(self, target: Target) -> None:
        """Raises GrainlineError where the target isn't a CPU or the compiled core is missing."""
        if target.kind != "cpu" or not target.cores:
            raise GrainlineError(f"target '{target.name}': an executor's threads need a CPU target, such as 'cpu'.")
        new = _compiled.function("gl_executor_new", [ctypes.c_void_p, ctypes.c_int64], ctypes.c_void_p)
        if new is None:
            raise GrainlineError(MISSING)
        cores = np.array(target.cores, np.int32)
        self.target = target
        self._process = os.getpid()
        self._handle: int | None = new(cores.ctypes.data, len(cores))
        if self._handle is None:
            raise GrainlineError(f"target '{target.name}': the system gives no {len(cores)} more threads.")

    @property
    def handle(self) -> int:
        """For C functions. RuntimeError once closed, and after a fork, which takes no threads along."""
        if self._handle is None or self._process != os.getpid():
            raise RuntimeError("this executor is closed, or belongs to the process that this one was forked from")
        return self._handle

    @property
    def workers(self) -> int:
        """How many threads there are."""
        return len(self.target.cores)

    @property
    def bound(self) -> int:
        """How many of them the system has bound to their core."""
        bound = _compiled.function("gl_executor_bound", [ctypes.c_void_p], ctypes.c_int64)
        assert bound is not None
        return int(bound(self.handle))

    def seen(self) -> tuple[Seen, ...]:
        """What each worker did last, in order of workers."""
        seen = _compiled.function("gl_executor_seen", [ctypes.c_void_p, ctypes.c_void_p])
        assert seen is not None
        rows = np.empty((self.workers, 4), np.int64)
        seen(self.handle, rows.ctypes.data)
        return tuple(Seen(*row) for row in rows.tolist())

    def close(self) -> None:
        """End the threads. More than once does no harm."""
        handle, self._handle = self._handle, None
        if handle is not None and self._process == os.getpid():
            free = _compiled.function("gl_executor_free", [ctypes.c_void_p])
            assert free is not None
            free(handle)

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


def blocks(n: int, workers: int) -> list[tuple[int, int]]:
    """The blocks that `workers` cut [0, n) into, as `native/executor.h` does."""
    return [(i * n // workers, (i + 1) * n // workers) for i in range(workers)]
