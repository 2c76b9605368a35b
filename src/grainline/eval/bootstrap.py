"""How far a score would move had other examples been drawn: the bootstrap (Efron 1979), percentile intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A score with the ends of its confidence interval."""

    value: float
    low: float
    high: float


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Σ numerators / Σ denominators over samples, with its percentile interval. A mean has denominators of 1."""
    over, under = np.asarray(numerators, float), np.asarray(denominators, float)
    rng = np.random.default_rng(seed)
    # A resample is how often each sample is drawn, which keeps memory at one row of counts per resample.
    draws = rng.multinomial(len(over), np.full(len(over), 1 / len(over)), size=resamples)
    low, high = np.quantile((draws @ over) / (draws @ under), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(over.sum() / under.sum()), float(low), float(high))
