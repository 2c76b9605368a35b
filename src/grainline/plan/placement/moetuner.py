"""MoETuner (arXiv 2502.06643): clusters of experts with equal load, then clusters on ranks for the least tail."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from grainline.plan.placement.chain import Chain, placed
from grainline.plan.placement.clusters import clustered
from grainline.plan.placement.placement import Placement, Problem


def moetuner(problem: Problem) -> Placement:
    """Both programs, one after the other: balance goes before traffic. Each has half of the time."""
    options, found, ranks = problem.options, problem.statistics, problem.ranks
    if options.sizes == "equal":
        problem.quota("moetuner with sizes 'equal'")
    started = time.monotonic()
    cluster_BE, gap = clustered(found, ranks.count, replace(options, seconds=options.seconds / 2))
    left = max(1.0, options.seconds - (time.monotonic() - started))
    chain = Chain.of(found, cluster_BE, ranks.bytes_per_second_GG)
    order_BG, how = placed(chain, options.chain, left, options.gap)
    rank_BC = np.argsort(order_BG, axis=1)
    note = f"load within {gap:.1%} of the best possible; tail: {how}"
    return Placement.of(np.take_along_axis(rank_BC, cluster_BE, 1), problem, note, gap)
