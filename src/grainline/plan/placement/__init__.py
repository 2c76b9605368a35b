"""Which rank holds which expert: decided from a routing trace, and judged on another."""

from __future__ import annotations

from collections.abc import Mapping

from grainline.plan.placement.affinity import affinity
from grainline.plan.placement.contiguous import contiguous
from grainline.plan.placement.judge import Judged, judge
from grainline.plan.placement.load_balanced import load_balanced
from grainline.plan.placement.moetuner import moetuner
from grainline.plan.placement.placement import ExpertPlacement, Options, Placement, Problem
from grainline.plan.placement.ranks import ExpertRanks, ranks_between, ranks_of
from grainline.plan.placement.statistics import Statistics

PLACEMENTS: Mapping[str, ExpertPlacement] = {
    "contiguous": contiguous,
    "load": load_balanced,
    "affinity": affinity,
    "moetuner": moetuner,
}
"""Method → what decides a placement."""

__all__ = [
    "PLACEMENTS",
    "ExpertPlacement",
    "ExpertRanks",
    "Judged",
    "Options",
    "Placement",
    "Problem",
    "Statistics",
    "judge",
    "ranks_between",
    "ranks_of",
]
