"""A micro-batch's way along its route and back, in time: at each node it waits until it is let in, first come first in.

With waiting, nobody gains by coming later: starting a visit as early as possible never delays what follows. So the
earliest walk along a route is the best one, and is found in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from grainline.plan.skip.problem import Route, SkipProblem, What

TINY = 1e-9
"""Seconds below which two visits count as touching, not as overlapping."""

Windows = Mapping[tuple[int, What], tuple[tuple[float, float], ...]]
"""At a node, for what is done there: times from (included) to (not) at which a visit may not start, by their begin."""

NOTHING: Windows = {}


class Visit(NamedTuple):
    """A micro-batch at a node."""

    node: int
    what: What
    start: float
    end: float

    def overlaps(self, other: Visit) -> bool:
        """Whether the two need one node at one time, as TC2 has it: two backwards may."""
        if self.node != other.node or self.what == other.what == What.BACKWARD:
            return False
        return self.start < other.end - TINY and other.start < self.end - TINY


@dataclass(frozen=True)
class Walk:
    """A timed route: forwards along it, the loss at the data node, backwards."""

    agent: int
    route: Route
    visits: tuple[Visit, ...]

    @property
    def seconds(self) -> float:
        """When it is back."""
        return self.visits[-1].end


def steps(route: Route) -> tuple[tuple[int, What], ...]:
    """The visits of a route, in order."""
    forwards = [(node, What.FORWARD) for node in route]
    backwards = [(node, What.BACKWARD) for node in reversed(route)]
    return (*forwards, (route[0], What.LOSS), *backwards)


def earliest(windows: Windows, node: int, what: What, arrival: float) -> float:
    """When a visit may start, not before it arrives."""
    for begin, end in windows.get((node, what), ()):
        if begin <= arrival < end:
            arrival = end
    return arrival


def walk(
    problem: SkipProblem, agent: int, route: Route, windows: Windows = NOTHING, release: float | None = None
) -> Walk:
    """The earliest walk along a route. It ends at infinity where a hop has no way."""
    at = route[0]
    now = problem.release_seconds[agent] if release is None else release
    visits = []
    for node, what in steps(route):
        start = earliest(windows, node, what, now + (0.0 if node == at else problem.transfer_seconds[at][node]))
        at, now = node, start + problem.seconds(node, what)
        visits.append(Visit(node, what, start, now))
    return Walk(agent, route, tuple(visits))


def busy(problem: SkipProblem, walks: Iterable[Walk]) -> Windows:
    """Windows that keep a further walk from overlapping with any of these, as TC2 has it."""
    found: dict[tuple[int, What], list[tuple[float, float]]] = {}
    for one in walks:
        for visit in one.visits:
            for what in What:
                if not what == visit.what == What.BACKWARD:
                    begin = visit.start - problem.seconds(visit.node, what) + TINY
                    found.setdefault((visit.node, what), []).append((begin, visit.end))
    return {key: tuple(sorted(windows)) for key, windows in found.items()}
