"""Every strategy of the space, with time and memory: the truth that other searches are held against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.searches.frame import Budget, Found, on, orders, rank_all
from grainline.plan.layouts.space import Pins, strategies
from grainline.plan.layouts.strategy import Strategy


def exhaustive(problem: Problem, pins: Pins, budget: Budget) -> Found:
    """All of them, in each order of the kinds of nodes, for as long as allowed."""

    def each() -> Iterator[tuple[Problem, Iterable[Strategy]]]:
        for fleet in orders(problem.fleet):
            changed = problem if fleet is problem.fleet else on(problem, fleet)
            yield changed, strategies(changed, pins)

    return rank_all(each(), budget)
