"""Reductions of two stages for least power at a given recall, with as many messages at the end as before.

A better early stage lowers no power while its reduction is fixed: it shows here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

from grainline.documents import GrainlineError, nearest
from grainline.documents.filter_checks import assigned
from grainline.documents.filters import Filters
from grainline.plan.filters.flow import Flow, flow_of

POINTS = 200


@dataclass(frozen=True)
class Split:
    """How a reduction is shared out between an early and a late stage."""

    early: float
    late: float
    flow: Flow


def split_at(filters: Filters, folder: Path, where: str, stages: tuple[str, str], early: float) -> Split:
    """The early stage reduces by `early`, and the late one by what is left of the product of both."""
    product = filters.stages[stages[0]].reduction * filters.stages[stages[1]].reduction
    tables = filters.overlaid((), where).tables()
    for name, reduction in zip(stages, (early, product / early), strict=True):
        tables = assigned(tables, f"stages.{name}.reduction", reduction)
    return Split(early, product / early, flow_of(Filters.parse(tables, where), folder, where))


def least_power(filters: Filters, folder: Path, where: str, stages: tuple[str, str], recall: float) -> Split:
    """The split of least power whose recall reaches `recall`, to within a thousandth of the early reduction.

    Raises GrainlineError where none does, with the most that one reaches.
    """
    for name in stages:
        if name not in filters.stages:
            raise GrainlineError(f"{where}: there is no stage '{name}'.{nearest(name, filters.stages)}")
        kind = filters.stages[name].classifier.kind
        if kind not in ("gaussian", "empirical"):
            raise GrainlineError(
                f"{where}: stages.{name}.classifier: of kind '{kind}', whose decision no reduction moves. Optimise "
                "stages with classifiers of kind gaussian or empirical."
            )
    product = filters.stages[stages[0]].reduction * filters.stages[stages[1]].reduction

    def at(early: float) -> Split:
        return split_at(filters, folder, where, stages, early)

    tried = [at(float(early)) for early in np.geomspace(1.0, product, POINTS)]
    good = [one for one in tried if one.flow.contingency.recall >= recall]
    if not good:
        best = max(tried, key=lambda one: one.flow.contingency.recall)
        raise GrainlineError(
            f"{where}: no split of {product:g} over {stages[0]} and {stages[1]} reaches a recall of {recall:g}; the "
            f"most is {best.flow.contingency.recall:.3f}, at {best.early:.3g} × {best.late:.3g}. Ask for less, or let "
            "more through."
        )
    chosen = min(good, key=lambda one: one.flow.watts)
    candidates = [chosen]
    for other in (tried[max(tried.index(chosen) - 1, 0)], tried[min(tried.index(chosen) + 1, POINTS - 1)]):
        if other.flow.contingency.recall < recall:  # the bound lies between the two
            bound = brentq(
                lambda early: at(early).flow.contingency.recall - recall, chosen.early, other.early, rtol=1e-6
            )
            candidates += [
                one for one in (at(bound * (1 - 1e-6)), at(bound * (1 + 1e-6))) if one.flow.contingency.recall >= recall
            ]
    return min(candidates, key=lambda one: one.flow.watts)
