"""Experts in their order: what every engine does by itself."""

from __future__ import annotations

import numpy as np

from grainline.plan.placement.placement import Placement, Problem


def contiguous(problem: Problem) -> Placement:
    """The first ranks have one expert more where the numbers don't divide."""
    experts, ranks = problem.statistics.experts, problem.ranks.count
    row = np.repeat(np.arange(ranks), [len(part) for part in np.array_split(np.arange(experts), ranks)])
    return Placement.of(np.tile(row, (len(problem.statistics.members), 1)), problem)
