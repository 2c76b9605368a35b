"""Better routes from good ones: a few micro-batches at a time are planned again, and kept where the step gets shorter.

Conflict-based search makes the longest walk of one round short. A step has several rounds, whose micro-batches meet at
nodes that a round of its own leaves free; what is left of the budget goes into that.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from grainline.plan.skip.problem import Route, SkipProblem
from grainline.plan.skip.search import best_route

AWAY = 0.25
"""Chance of each node to be out of bounds in a try, so that tries differ."""


def refine(
    problem: SkipProblem,
    routes: Sequence[Route],
    value: Callable[[Sequence[Route]], float],
    *,
    seed: int = 0,
    tries: int = 20_000,
    until: float = float("inf"),
) -> tuple[Route, ...]:
    """Routes within the quotas with a `value` no higher than that of the given ones.

    Ends after `tries`, or when time.monotonic() says `until`.
    """
    rng = random.Random(seed)
    best, found = value(routes), list(routes)
    for _ in range(tries):
        if time.monotonic() > until:
            break
        again = rng.sample(range(problem.agents), min(problem.agents, rng.choice((1, 2, 2, 3))))
        tried = _planned_again(problem, found, again, rng)
        if tried is None:
            continue
        seconds = value(tried)
        if seconds <= best:
            best, found = seconds, tried
    return tuple(found)


def _planned_again(
    problem: SkipProblem, routes: list[Route], again: Sequence[int], rng: random.Random
) -> list[Route] | None:
    tried = list(routes)
    used = Counter(node for agent, route in enumerate(routes) if agent not in again for node in route[1:])
    for agent in again:
        away = {node for node in range(problem.nodes) if rng.random() < AWAY}
        full = {node for node, count in used.items() if count >= problem.slots}
        walk = best_route(problem, agent, (away | full) - {problem.starts[agent]})
        if walk is None:
            return None
        tried[agent] = walk.route
        used.update(walk.route[1:])
    return tried
