"""How many requests run at once on a replica: a queue whose service slows down as it fills.

With n running each is done after (O − 1)·τ(n) seconds, so n changes as in a birth–death process with rates λ and
μ(n) = n / ((O − 1)·τ(n)); its stationary law p(n) ∝ Π λ / μ(k) holds whatever the law of lengths (processor sharing is
insensitive to it). It spreads wider than Poisson's, because a full replica is slow. Beyond `most` requests wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

GRID_STEP = 1.25
"""Between numbers of requests at which a step is priced; between them it is interpolated."""


@dataclass(frozen=True)
class Crowd:
    """Of one size of request. `steps(n)` is τ(n) in seconds; `most` run at once."""

    steps: Callable[[float], float]
    output: int
    most: int

    @cached_property
    def _log_waits(self) -> NDArray[np.float64]:
        """log Π_{k ≤ n} (O − 1)·τ(k)/k for n = 0 … most; shorter where τ isn't finite."""
        grid = [1.0]
        while grid[-1] < self.most:
            grid.append(min(float(self.most), max(grid[-1] + 1, grid[-1] * GRID_STEP)))
        seconds = [self.steps(n) for n in grid]
        finite = next((i for i, value in enumerate(seconds) if math.isinf(value)), len(grid))
        if not finite:
            return np.zeros(1)
        n = np.arange(1, int(grid[finite - 1]) + 1)
        waits = (self.output - 1) * np.interp(n, grid[:finite], seconds[:finite]) / n
        return np.concatenate(([0.0], np.cumsum(np.log(waits))))

    def is_stable(self, rate: float) -> bool:
        """Whether a full replica ends more requests than come."""
        return self._ratio(rate) < 1

    def _ratio(self, rate: float) -> float:
        waits = self._log_waits
        return rate * math.exp(waits[-1] - waits[-2]) if len(waits) > 1 else math.inf

    def at_most(self, rate: float, share: float) -> float:
        """The number that isn't passed in a share of time; infinite where requests would wait for longer than that."""
        n = np.arange(len(self._log_waits))
        logs = n * math.log(rate) + self._log_waits
        p = np.exp(logs - logs.max())
        ratio = self._ratio(rate)  # beyond what runs at once the last rate of service stays
        if ratio >= 1:
            return math.inf
        total = p.sum() + p[-1] * ratio / (1 - ratio)
        held = np.cumsum(p) / total
        return math.inf if held[-1] < share else float(np.searchsorted(held, share))
