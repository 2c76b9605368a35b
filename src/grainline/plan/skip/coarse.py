"""Coarsening: micro-batches of one data node that go the same way together, planned as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

from grainline.plan.skip.problem import Route, SkipProblem


@dataclass(frozen=True)
class Coarse:
    """A problem whose micro-batches each stand for `group` of another's; they take that many slots and that long."""

    problem: SkipProblem
    group: int
    starts: tuple[int, ...]  # of the other problem

    def expanded(self, routes: Sequence[Route]) -> tuple[Route, ...]:
        """The same routes for each micro-batch of the other problem."""
        left: dict[int, list[Route]] = {}
        for route in routes:
            left.setdefault(route[0], []).extend([route] * self.group)
        return tuple(left[start].pop(0) for start in self.starts)


def coarsened(problem: SkipProblem) -> Coarse | None:
    """Groups as large as slots and starts allow; None where they allow none."""
    group = gcd(problem.slots, *Counter(problem.starts).values())
    if group == 1:
        return None
    starts = [start for start, count in sorted(Counter(problem.starts).items()) for _ in range(count // group)]
    fewer = replace(
        problem,
        starts=tuple(starts),
        slots=problem.slots // group,
        forward_seconds=tuple(group * seconds for seconds in problem.forward_seconds),
        release_seconds=(),
    )
    return Coarse(fewer, group, problem.starts)
