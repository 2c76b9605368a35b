"""From a problem to routes: the searches one after another within a budget, and the best of what they found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from grainline.documents import GrainlineError
from grainline.plan.skip.coarse import Coarse, coarsened
from grainline.plan.skip.conflicts import Walks, conflict_based_search, longest
from grainline.plan.skip.prioritised import prioritised
from grainline.plan.skip.problem import Route, SkipProblem
from grainline.plan.skip.refine import refine
from grainline.plan.skip.search import best_route
from grainline.plan.skip.timetable import step_seconds


@dataclass(frozen=True)
class Answer:
    """Routes of the planned micro-batches, and what is known of them.

    `longest_seconds` is the longest walk of the best collision-free solution for one round, and none has one below
    `bound_seconds`; None where there was none in time, or nobody asked.
    """

    routes: tuple[Route, ...]
    longest_seconds: float | None = None
    bound_seconds: float | None = None
    solutions: int = 0

    @property
    def gap(self) -> float | None:
        """By how much the longest walk may be too long, relative to its bound: 0 is proven to be the best."""
        if self.longest_seconds is None or not self.bound_seconds:
            return None
        return self.longest_seconds / self.bound_seconds - 1


def solve(
    problem: SkipProblem,
    microbatches: int,
    *,
    value: Callable[[Sequence[Route]], float] | None = None,
    collision_aware: bool = True,
    budget_s: float = 60.0,
    solutions: int = 8,
    gain: float = 0.12,
    expansions: int = 5000,
    tries: int = 20_000,
    seed: int = 0,
) -> Answer:
    """The routes with the shortest step of so many micro-batches that the budget finds.

    `value` is what a step takes, in seconds; without, it is told by the plan's own clock.

    First one micro-batch after another is planned, so that there is something. Then conflict-based search, on
    groups of micro-batches with one start and on single ones, until it has `solutions` free of collisions, or a
    step shorter by `gain` than the first (the authors' criteria), or a proof that the longest walk can't be
    shorter, or as many `expansions`; at last `tries` of `refine`. What ends by the clock may end elsewhere on
    another machine. Not `collision_aware` is the authors' search without TC2: quotas alone, and its first answer.
    Raises GrainlineError where nothing obeys the constraints, as far as the budget could tell.
    """
    begin = time.monotonic()
    _check_reachable(problem)
    if not collision_aware:
        found = conflict_based_search(problem, collisions=False, enough=bool, until=begin + budget_s)
        walks = (
            found.solutions[-1] if found.solutions else prioritised(problem, range(problem.agents), collisions=False)
        )
        if walks is None:
            raise _nothing(problem)
        return Answer(tuple(one.route for one in walks))
    if value is None:
        value = partial(step_seconds, problem, microbatches=microbatches)
    start = _Best(value)
    for order in (range(problem.agents), range(problem.agents - 1, -1, -1)):
        start.look(prioritised(problem, order))
    coarse = coarsened(problem)
    if coarse is not None:
        conflict_based_search(
            coarse.problem,
            look=lambda walks: start.look(walks, coarse),
            expansions=expansions,
            until=begin + budget_s / 4,
        )
    best = _Best(value)
    found = conflict_based_search(
        problem,
        look=best.look,
        enough=lambda count: count >= solutions or (count > 0 and best.gain() > gain),
        expansions=expansions,
        until=begin + budget_s / 2,
    )
    best = min(best, start, key=lambda one: one.least)
    if best.routes is None:
        raise _nothing(problem)
    routes = refine(problem, best.routes, best.seconds, seed=seed, tries=tries, until=begin + budget_s)
    walked = longest(found.solutions[-1]) if found.solutions else None
    return Answer(routes, walked, found.bound_seconds, len(found.solutions))


class _Best:
    """The best routes so far."""

    def __init__(self, value: Callable[[Sequence[Route]], float]) -> None:
        self.value = value
        self.routes: tuple[Route, ...] | None = None
        self.least = self.first = float("inf")
        self.known: dict[tuple[Route, ...], float] = {}

    def seconds(self, routes: Sequence[Route]) -> float:
        """Of a step."""
        key = tuple(routes)
        if key not in self.known:
            self.known[key] = self.value(key)
        return self.known[key]

    def look(self, walks: Walks | None, coarse: Coarse | None = None) -> None:
        """Keep them if they are better."""
        if walks is None:
            return
        routes = tuple(one.route for one in walks)
        routes = routes if coarse is None else coarse.expanded(routes)
        seconds = self.seconds(routes)
        self.first = seconds if self.routes is None else self.first
        if seconds < self.least:
            self.routes, self.least = routes, seconds

    def gain(self) -> float:
        """On the first."""
        return 1 - self.least / self.first if self.routes else 0.0


def _check_reachable(problem: SkipProblem) -> None:
    for agent, start in enumerate(problem.starts):
        if best_route(problem, agent) is None:
            raise GrainlineError(
                f"micro-batch {agent}, which starts at node {start}, finds no path of {problem.path_length} stages: "
                "too few links lead from there and back (or max_jump is too small). Add links, or shorten the paths"
            )


def _nothing(problem: SkipProblem) -> GrainlineError:
    return GrainlineError(
        f"no {problem.agents} paths of {problem.path_length} stages were found that fit into the slots together. Give "
        "the search a larger budget, add slots or links, or plan for fewer micro-batches"
    )
