"""The choice: how many replicas of each type, and which share of each bucket goes to which type.

With n[b, g] of a bucket's S slices to type g, B[g] replicas of it, and loads of slices taken as additive:

    minimise Σ B[g]·price[g]   subject to   Σ_g n[b, g] = S,   Σ_b n[b, g]·load[b, g] ≤ u·B[g]

Slices of a bucket are interchangeable, so they are counted, not chosen one by one as published: the same optimum, with
fewer variables and no symmetry. With n continuous it is a bound for any number of slices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from grainline.documents import GrainlineError
from grainline.plan.fleet.problem import Problem
from grainline.plan.program import Answer, Infeasible, Program

ROUNDING = 1e-6
"""Of a load: one of 2.0000001 needs two replicas, not three."""


@dataclass(frozen=True)
class Fleet:
    """A choice."""

    problem: Problem
    counts: tuple[int, ...]  # replicas of each type
    slices: tuple[tuple[int, ...], ...]  # by bucket: to each type
    bound: float  # no choice with so many slices costs less
    proven: bool = True

    @property
    def cost(self) -> float:
        """In the problem's prices."""
        return sum(count * price for count, price in zip(self.counts, self.problem.prices, strict=True))

    @property
    def loads(self) -> tuple[float, ...]:
        """Of each type's replicas, on average; at most the ceiling."""
        return tuple(
            _load(self.problem, g, [row[g] for row in self.slices]) / count if count else 0.0
            for g, count in enumerate(self.counts)
        )

    def shares(self, bucket: int) -> tuple[float, ...]:
        """Of a bucket's requests, by type."""
        return tuple(n / self.problem.slices for n in self.slices[bucket])


def _load(problem: Problem, g: int, slices: list[int]) -> float:
    return sum(n * (load or 0.0) for n, load in zip(slices, problem.loads[g], strict=True))


def cheapest(problem: Problem, *, seconds: float = 30.0, gap: float = 1e-6) -> Fleet:
    """The best choice, or the best found in time (with `proven` False and its bound).

    Raises GrainlineError where a bucket can't be served, and where the stock doesn't do, with what is missing.
    """
    _all_served(problem)
    program, counts, taken = _program(problem, whole=True)
    try:
        answer = program.solve(seconds=seconds, gap=gap)
    except Infeasible:
        raise GrainlineError(_shortfall(problem)) from None
    slices = tuple(
        tuple(round(answer.values[taken[b, g]]) if (b, g) in taken else 0 for g in range(len(problem.names)))
        for b in range(len(problem.rates))
    )
    found = tuple(round(answer.values[column]) for column in counts)
    return Fleet(problem, found, slices, answer.bound, answer.proven)


def lower_bound(problem: Problem, *, seconds: float = 30.0) -> float:
    """No choice costs less, into however many slices buckets are split."""
    _all_served(problem)
    program, _, _ = _program(problem, whole=False)
    try:
        answer: Answer = program.solve(seconds=seconds)
    except Infeasible:
        raise GrainlineError(_shortfall(problem)) from None
    return min(answer.bound, answer.objective)


def single_types(problem: Problem) -> tuple[Fleet | None, ...]:
    """With each type alone, in any number; None where it can't serve all."""
    found: list[Fleet | None] = []
    for g in range(len(problem.names)):
        alone = problem.of_type(g)
        if any(load is None for load in alone.loads[0]):
            found.append(None)
            continue
        load = _load(alone, 0, [alone.slices] * len(alone.rates))
        count = rounded_up(load / alone.ceiling)
        found.append(Fleet(alone, (count,), ((alone.slices,),) * len(alone.rates), count * alone.prices[0]))
    return tuple(found)


def greedy(problem: Problem) -> Fleet:
    """Each bucket to the type that serves it for the least, and counts rounded up; stock isn't looked at."""
    _all_served(problem)
    slices = []
    for b in range(len(problem.rates)):
        costs = [
            math.inf if (load := row[b]) is None else load * price
            for row, price in zip(problem.loads, problem.prices, strict=True)
        ]
        best = min(range(len(costs)), key=costs.__getitem__)
        slices.append(tuple(problem.slices if g == best else 0 for g in range(len(costs))))
    counts = tuple(
        max(rounded_up(_load(problem, g, [row[g] for row in slices]) / problem.ceiling), _least(problem, g))
        for g in range(len(problem.names))
    )
    return Fleet(problem, counts, tuple(slices), 0.0, proven=False)


def rounded_up(load: float) -> int:
    """Replicas for a load."""
    return math.ceil(load - ROUNDING)


def wrong(fleet: Fleet) -> list[str]:
    """What a choice breaks of the problem, in words; independent of how it was found."""
    problem, found = fleet.problem, []
    for b, row in enumerate(fleet.slices):
        if sum(row) != problem.slices or min(row) < 0:
            found.append(f"bucket {b} has {sum(row)} slices of {problem.slices}")
        found += [
            f"bucket {b} goes to {problem.names[g]}, which can't serve it"
            for g, n in enumerate(row)
            if n and problem.throughput[g][b] <= 0
        ]
    for g, (count, name) in enumerate(zip(fleet.counts, problem.names, strict=True)):
        load = _load(problem, g, [row[g] for row in fleet.slices])
        if load > problem.ceiling * count + ROUNDING:
            found.append(f"{name}: a load of {load:.4g} on {count} at a ceiling of {problem.ceiling:g}")
        if not _least(problem, g) <= count <= problem.most(g):
            found.append(f"{name}: {count} of them")
    return found


def _least(problem: Problem, g: int) -> int:
    return problem.least[g] if problem.least else 0


def _program(
    problem: Problem, *, whole: bool, short: bool = False
) -> tuple[Program, list[int], dict[tuple[int, int], int]]:
    """Columns of counts, and of slices by bucket and type. `short`: minimise what is beyond the stock instead."""
    program = Program()
    counts: list[int] = []
    for g, price in enumerate(problem.prices):
        high = math.inf if short else problem.most(g)
        counts.append(program.integer(f"B {problem.names[g]}", low=_least(problem, g), high=high)[0])
        if not short:
            program.minimise({counts[g]: price})
        elif math.isfinite(problem.most(g)):
            beyond = program.integer(f"beyond {problem.names[g]}")[0]
            program.at_most({counts[g]: 1.0, beyond: -1.0}, problem.most(g))
            program.minimise({beyond: 1.0 + 1e-6 * price})
    taken: dict[tuple[int, int], int] = {}
    add = program.integer if whole else program.continuous
    for b in range(len(problem.rates)):
        for g in range(len(problem.names)):
            if problem.loads[g][b] is not None:
                taken[b, g] = add(f"n {b} {g}", high=float(problem.slices))[0]
        program.equal({taken[b, g]: 1.0 for g in range(len(problem.names)) if (b, g) in taken}, float(problem.slices))
    for g, count in enumerate(counts):
        terms = {column: float(problem.loads[g][b] or 0.0) for (b, of), column in taken.items() if of == g}
        if terms:
            program.at_most({**terms, count: -problem.ceiling}, 0.0)
    return program, counts, taken


def _all_served(problem: Problem) -> None:
    nobody = [b for b in range(len(problem.rates)) if all(row[b] is None for row in problem.loads)]
    if nobody:
        raise GrainlineError(f"no type can serve bucket{'s' if len(nobody) > 1 else ''} {', '.join(map(str, nobody))}.")


def _shortfall(problem: Problem) -> str:
    program, counts, _ = _program(problem, whole=True, short=True)
    answer = program.solve()
    missing = {
        name: round(answer.values[column] - problem.most(g))
        for g, (name, column) in enumerate(zip(problem.names, counts, strict=True))
        if answer.values[column] > problem.most(g)
    }
    words = ", ".join(f"{count} {name}" for name, count in missing.items())
    return f"the stock doesn't do: {words} more would. Raise stock, ceiling or objectives, or take less traffic."
