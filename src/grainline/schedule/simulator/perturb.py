"""Stragglers and jitter: the same tasks, not quite as fast as they were meant to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from grainline.schedule.actions import COMPUTE
from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.simulator.graph import TaskGraph


def perturb(graph: TaskGraph, *, seed: int, jitter: float = 0.0, slow: Mapping[int, float] | None = None) -> TaskGraph:
    """The graph with compute on rank r taking `slow[r]` times as long, and all `seconds` multiplied by noise.

    The noise is log-normal with mean 1; `jitter` is the standard deviation of its logarithm. The same seed gives the
    same noise. Raises ScheduleError for a jitter or a factor that is negative or no number.
    """
    if not 0 <= jitter < math.inf:
        raise ScheduleError(f"a jitter of {jitter}: must be 0 or more")
    factor_by_rank = np.ones(int(graph.rank.max(initial=0)) + 1)
    for rank, factor in (slow or {}).items():
        if not 0 <= factor < math.inf:
            raise ScheduleError(f"rank {rank} takes {factor} times as long: must be 0 or more")
        if not 0 <= rank < len(factor_by_rank):
            raise ScheduleError(f"there is no rank {rank} to be slow: {len(factor_by_rank)} ranks")
        factor_by_rank[rank] = factor
    is_compute = np.fromiter((a.kind in COMPUTE for a in graph.actions), dtype=bool, count=len(graph))
    noise = np.random.default_rng(seed).standard_normal(len(graph))
    factors = np.exp(jitter * noise - jitter**2 / 2) * np.where(is_compute, factor_by_rank[graph.rank], 1.0)
    return replace(graph, seconds=graph.seconds * factors)
