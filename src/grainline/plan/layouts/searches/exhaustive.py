"""Every strategy of the space, with time and memory: the truth that other searches are held against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from grainline.plan.layouts.objective import time
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.searches.frame import Budget, Found, on, orders, rank_all
from grainline.plan.layouts.space import Pins, strategies
from grainline.plan.layouts.stock import smaller
from grainline.plan.layouts.strategy import Strategy


def exhaustive(problem: Problem, pins: Pins, budget: Budget) -> Found:
    """All of them, in each order of the kinds of nodes, for as long as allowed.

    Where devices count for the objective, smaller fleets are looked at, too.
    """

    def each() -> Iterator[tuple[Problem, Iterable[Strategy]]]:
        fleets = iter((problem.fleet,)) if budget.objective is time else smaller(problem.fleet)
        for fleet in (order for some in fleets for order in orders(some)):
            changed = problem if fleet is problem.fleet else on(problem, fleet)
            yield changed, strategies(changed, pins)

    return rank_all(each(), budget)
