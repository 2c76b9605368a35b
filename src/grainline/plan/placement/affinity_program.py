"""ExFlow's integer program, added up over tokens so that its size doesn't grow with the trace; and by halves.

min Σ_l Σ_{a,b} C_l[a,b]·(1 − Σ_g z) with z ≤ x[l,a,g], z ≤ x[l+1,b,g]. It has the optimum of the published program over
tokens (section IV of arXiv 2401.08383).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from grainline.documents import GrainlineError
from grainline.plan import program
from grainline.plan.placement.affinity import crossing, swept
from grainline.plan.placement.placement import Ints, Options, Problem
from grainline.plan.placement.statistics import Statistics


@dataclass
class Program:
    """A solver for `affinity` that keeps how near to the best it knows its answers to be."""

    options: Options
    gap: float | None = 0.0  # the worst of its answers; None where one has no bound
    ends: float = field(init=False)

    def __post_init__(self) -> None:
        self.ends = time.monotonic() + self.options.seconds

    def __call__(self, statistics: Statistics, ranks: int) -> Ints:
        """The program's answer, or the sweeps' where that is better or the program found none in time."""
        rank_BE = swept(statistics, ranks, self.options.restarts, self.options.seed)
        try:
            found_BE, bound = solved(statistics, ranks, max(1.0, self.ends - time.monotonic()), self.options.gap)
        except program.Infeasible:
            raise
        except GrainlineError:  # none in time
            self.gap = None
            return rank_BE
        rank_BE = min((found_BE, rank_BE), key=lambda each: crossing(statistics, each))
        value = crossing(statistics, rank_BE)
        if self.gap is not None:
            self.gap = max(self.gap, 0.0 if value <= 1e-9 else (value - bound) / value)
        return rank_BE

    @property
    def note(self) -> str:
        """For people."""
        if self.gap is None:
            return f"no answer of the integer program in {self.options.seconds:g} s; these are the sweeps'"
        if self.gap <= self.options.gap + 1e-9:
            return f"proven to be within {self.options.gap:.1%} of the fewest crossings"
        return f"out of time: within {self.gap:.0%} of the fewest crossings"


def solved(statistics: Statistics, ranks: int, seconds: float, gap: float) -> tuple[Ints, float]:
    """[banks, E], and a number of crossings that no placement is below."""
    banks, experts = len(statistics.members), statistics.experts
    p = program.Program()
    x = np.array(p.binary("x", banks * experts * ranks)).reshape(banks, experts, ranks)
    for bank in range(banks):
        for expert in range(experts):
            p.equal(dict.fromkeys(x[bank, expert].tolist(), 1.0), 1.0)
        for rank in range(ranks):
            p.equal(dict.fromkeys(x[bank, :, rank].tolist(), 1.0), experts / ranks)
    for expert in range(min(experts, ranks)):  # ranks are alike: number them as the first bank's experts come
        for rank in range(expert + 1, ranks):
            p.fix(int(x[0, expert, rank]), 0.0)
    total = 0.0
    for layer, flow_EE in enumerate(statistics.flow_LEE):
        here, there = x[statistics.banks[layer]], x[statistics.banks[layer + 1]]
        for a, b in np.argwhere(flow_EE > 0):
            total += flow_EE[a, b]
            z = p.continuous("z", ranks, high=1.0)
            for rank in range(ranks):
                p.at_most({z[rank]: 1.0, int(here[a, rank]): -1.0}, 0.0)
                if here[a, rank] != there[b, rank]:
                    p.at_most({z[rank]: 1.0, int(there[b, rank]): -1.0}, 0.0)
            p.minimise(dict.fromkeys(z, -float(flow_EE[a, b])))
    # What is minimised is less than nothing by the steps that stay, so the gap is of those: of all steps it is smaller.
    answer = p.solve(seconds=seconds, gap=gap)
    return answer.values[x].argmax(-1), max(0.0, total + answer.bound)


def bipartition(problem: Problem) -> tuple[Ints, str]:
    """Halves of the ranks, halves of those, …: log₂ G levels of programs for two. Near the best, and much quicker.

    Raises GrainlineError unless G is a power of two.
    """
    ranks = problem.ranks.count
    if ranks & (ranks - 1):
        raise GrainlineError(f"bipartition halves the ranks again and again, and {ranks} is no power of two.")
    solver = Program(problem.options)

    def halved(statistics: Statistics, first: int, count: int) -> Ints:
        if count == 1:
            return np.full((len(statistics.members), statistics.experts), first, dtype=np.intp)
        side_BE = solver(statistics, 2)
        rank_BE = np.zeros_like(side_BE)
        for side in (0, 1):
            mine = np.array([np.flatnonzero(row == side) for row in side_BE])
            inside = halved(statistics.of_experts(mine), first + side * count // 2, count // 2)
            np.put_along_axis(rank_BE, mine, inside, axis=1)
        return rank_BE

    rank_BE = halved(problem.statistics, 0, ranks)
    every = "every" if solver.gap is not None and solver.gap <= problem.options.gap + 1e-9 else "not every"
    return rank_BE, f"{every} halving was solved to {problem.options.gap:.1%}"
