"""How exhibits and benchmarks measure: alternating runs, medians, ratios within one run, and an honest error bar."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FEW = 6  # below this many samples a bootstrap only pretends to know; the error bar is then the range seen


@dataclass(frozen=True)
class Estimate:
    """A median over samples, with the ends of its error bar."""

    value: float
    low: float
    high: float
    samples: tuple[float, ...]

    @property
    def error_bar(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g}, n = {len(self.samples)})"


def estimate(samples: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """Median of samples; its error bar is the 95 % percentile bootstrap, or the range where samples are few."""
    values = tuple(map(float, samples))
    if not values:
        raise ValueError("an estimate needs at least one sample")
    if len(values) < FEW:
        return Estimate(statistics.median(values), min(values), max(values), values)
    draws = np.random.default_rng(seed).choice(np.array(values), size=(resamples, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return Estimate(statistics.median(values), float(low), float(high), values)


def ratio(over: Sequence[float], under: Sequence[float]) -> Estimate:
    """over / under, pair by pair: what both of a pair suffered (a busy machine, a hard seed) cancels out."""
    return estimate([a / b for a, b in zip(over, under, strict=True)])


def alternate(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round.

    The candidates of a round run one after another, and every other round in reverse, so that a machine that slows
    down or speeds up favours none of them.
    """
    for _ in range(warmup):
        for run in candidates.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(rounds):
        for name in list(candidates) if i % 2 == 0 else list(candidates)[::-1]:
            started = clock()
            candidates[name]()
            seconds[name].append(clock() - started)
    return seconds
