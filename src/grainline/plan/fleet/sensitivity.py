"""What another rate, another objective or another price would change: the choice made again, for a row of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from grainline.documents import GrainlineError
from grainline.plan.fleet.problem import Problem
from grainline.plan.fleet.solve import cheapest, single_types

FACTORS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
"""Of the rate, and of objectives."""
PRICE_FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Point:
    """The choice at one value; None where there is none."""

    value: float
    cost: float | None
    counts: tuple[int, ...]
    alone: tuple[float | None, ...]  # by type


@dataclass(frozen=True)
class Sweep:
    """A row of points."""

    what: str
    unit: str
    names: tuple[str, ...]
    points: tuple[Point, ...]
    at: float  # the value that was asked for


def at(problem: Problem, value: float, *, seconds: float = 5.0) -> Point:
    """The choice for a problem."""
    alone = tuple(None if fleet is None else fleet.cost for fleet in single_types(problem))
    try:
        found = cheapest(problem, seconds=seconds, gap=1e-3)
    except GrainlineError:
        return Point(value, None, (0,) * len(problem.names), alone)
    return Point(value, found.cost, found.counts, alone)


def by_rate(problem: Problem, factors: Sequence[float] = FACTORS) -> Sweep:
    """Costs at other rates of the same traffic."""
    rate = sum(problem.rates)
    points = [at(replace(problem, rates=tuple(r * f for r in problem.rates)), rate * f) for f in factors]
    return Sweep("rate", "requests per second", problem.names, tuple(points), rate)


def by_price(problem: Problem, g: int, factors: Sequence[float] = PRICE_FACTORS) -> Sweep:
    """Costs at other prices of one type."""
    points = []
    for factor in factors:
        prices = tuple(p * factor if i == g else p for i, p in enumerate(problem.prices))
        points.append(at(replace(problem, prices=prices), problem.prices[g] * factor))
    return Sweep(f"price of {problem.names[g]}", "$/h", problem.names, tuple(points), problem.prices[g])


def by_objective(
    problem: Problem,
    rows: Callable[[float], Mapping[str, Sequence[float]]],
    seconds: float,
    factors: Sequence[float] = FACTORS,
    what: str = "TPOT",
) -> Sweep:
    """Costs at other objectives; `rows(seconds)` gives each type's throughputs there, profiled again."""
    points = []
    for factor in factors:
        found = rows(seconds * factor)
        throughput = tuple(tuple(found[name]) for name in problem.names)
        points.append(at(replace(problem, throughput=throughput), seconds * factor))
    return Sweep(what, "s", problem.names, tuple(points), seconds)
