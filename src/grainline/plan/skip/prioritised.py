"""Prioritised planning: one micro-batch after another takes the best route that leaves enough for the rest.

It always ends at once, and gives the search its first solution. What is enough: with R micro-batches to come, each of
which needs L − 1 different stages, Σ over stages of min(room, R) ≥ R · (L − 1). So a stage with just as much room as
there are micro-batches to come will be on the path of each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from grainline.plan.skip.problem import Route, SkipProblem
from grainline.plan.skip.search import routes
from grainline.plan.skip.walk import NOTHING, Walk, busy


def prioritised(
    problem: SkipProblem, order: Sequence[int], *, collisions: bool = True, taken: Sequence[Walk] = ()
) -> tuple[Walk, ...] | None:
    """Walks of the agents in `order`, sorted by agent, beside those that are `taken` already.

    None where one finds no route: CC2 or missing links can make that happen in one order and not in another.
    """
    walks = list(taken)
    for done, agent in enumerate(order):
        used = Counter(node for one in walks for node in one.route[1:])
        full = [node for node, count in used.items() if count >= problem.slots]
        windows = busy(problem, walks) if collisions else NOTHING
        left = len(order) - done - 1
        every = routes(problem, agent, full, windows)
        found = next((one for one in every if leaves_enough(problem, used, one.route, left)), None)
        if found is None:
            return None
        walks.append(found)
    return tuple(sorted(walks, key=lambda one: one.agent))


def leaves_enough(problem: SkipProblem, used: Counter[int], route: Route, left: int) -> bool:
    """Whether the `left` micro-batches to come can have their stages if this route is taken beside the `used` slots."""
    room = Counter({stage: problem.capacity(stage) for stage in range(1, len(problem.stages))})
    for node, count in (used + Counter(route[1:])).items():
        room[problem.stage_of[node]] -= count
    return sum(min(free, left) for free in room.values()) >= left * (problem.path_length - 1)
