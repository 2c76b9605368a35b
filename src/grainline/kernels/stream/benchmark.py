"""The benchmark: repeat copy, scale, add and triad on three arrays, timed one by one, and hold the end against what it
must be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from grainline.documents import GrainlineError
from grainline.kernels.stream.backend import DTYPES, Backend

Kernel = Literal["copy", "scale", "add", "triad"]
BYTES_OF: dict[Kernel, int] = {"copy": 2, "scale": 2, "add": 3, "triad": 3}
"""Elements counted as moved per index: those that the source reads and writes. An ordinary store also reads its line
first, which isn't counted: a third more for add and triad, half as much again for copy and scale."""
KERNELS: tuple[Kernel, ...] = tuple(BYTES_OF)
S = 3.0
EXACT_REPETITIONS = {"float32": 6, "float64": 13}
"""As long as all values are whole numbers that the dtype holds."""
RELATIVE = {"float32": 1e-6, "float64": 1e-13}
"""Tolerance beyond that."""


class Stream:
    """Three arrays of n elements on a backend, touched first by the backend itself."""

    def __init__(
        self,
        backend: Backend,
        n: int,
        dtype: str = "float64",
        clock: Callable[[], float] = time.perf_counter,
        arrays: Sequence[Any] | None = None,
    ) -> None:
        """Arrays after a `reset`; `arrays` to use instead of new ones. GrainlineError for other dtypes than DTYPES."""
        if dtype not in DTYPES:
            raise GrainlineError(f"STREAM in {dtype}: it must be {' or '.join(DTYPES)}.")
        if n < 1:
            raise GrainlineError(f"STREAM over {n} elements: there must be at least one.")
        self.backend, self.n, self.dtype = backend, n, dtype
        self._clock = clock
        self.a, self.b, self.c = arrays or [backend.empty(n, dtype) for _ in range(3)]
        self.reset()

    def reset(self) -> None:
        """Begin again: a = 1, b = 2, c = 0, and then a ← 2a."""
        for array, value in ((self.a, 1.0), (self.b, 2.0), (self.c, 0.0)):
            self.backend.transform("fill", out=array, s=value)
        self.backend.transform("scale", self.a, out=self.a, s=2.0)
        self.backend.wait()
        self.repetitions = 0

    def repetition(self) -> dict[Kernel, float]:
        """Seconds of each kernel, once."""
        expected(self.repetitions + 1, self.dtype)  # or its values are too large
        self.repetitions += 1
        run, a, b, c = self.backend.transform, self.a, self.b, self.c
        calls: dict[Kernel, Callable[[], None]] = {
            "copy": lambda: run("copy", a, out=c),
            "scale": lambda: run("scale", c, out=b, s=S),
            "add": lambda: run("add", a, b, out=c),
            "triad": lambda: run("triad", b, c, out=a, s=S),
        }
        seconds = {}
        for kernel, call in calls.items():
            start = self._clock()
            call()
            self.backend.wait()
            seconds[kernel] = self._clock() - start
        return seconds

    def bytes_per_second(self, seconds: Mapping[Kernel, float]) -> dict[Kernel, float]:
        """Rates, by STREAM's way to count."""
        size = self.n * np.dtype(self.dtype).itemsize
        return {kernel: BYTES_OF[kernel] * size / spent for kernel, spent in seconds.items()}

    def check(self, repetitions: int | None = None) -> None:
        """Raises GrainlineError unless every element is what it must be: to the bit, for the first repetitions.

        `repetitions`: all that the arrays have seen, where others than this worked on them too.
        """
        k = self.repetitions if repetitions is None else repetitions
        relative = 0.0 if k <= EXACT_REPETITIONS[self.dtype] else RELATIVE[self.dtype]
        for name, array, value in zip("abc", (self.a, self.b, self.c), expected(k, self.dtype), strict=True):
            wrong = self.backend.wrong(array, value, relative)
            if wrong:
                raise GrainlineError(
                    f"STREAM by {self.backend.name}: {wrong} of {self.n} elements of {name} aren't {value:.17g}. The "
                    "machine or the compiled core computes wrongly; its rates mean nothing."
                )


def expected(repetitions: int, dtype: str = "float64") -> tuple[float, float, float]:
    """(a, b, c) after so many repetitions: each takes a to (2s + s²)·a, and leaves b = s·a and c = (1 + s)·a behind.

    Raises GrainlineError where the dtype doesn't hold them.
    """
    s = int(S)
    a = 2 * (2 * s + s * s) ** repetitions
    before = 2 * (2 * s + s * s) ** (repetitions - 1) if repetitions else 0
    if a > float(np.finfo(dtype).max):
        raise GrainlineError(f"STREAM in {dtype}: after {repetitions} repetitions its numbers are too large. Do fewer.")
    return (float(a), float(s * before), float((1 + s) * before)) if repetitions else (2.0, 2.0, 0.0)
