"""The first constraint that walks break together, as choices: in every solution that obeys, one of the choices holds.

Stage quotas come first, then node quotas (TC1), then collisions (TC2). Of a quota that k micro-batches exceed, one of
them has to stay away. Of two visits that overlap, one has to start otherwise: where they start at t and u and end at e
and f, all starts in [t, f) of the one collide with all starts in [u, e) of the other, so that one of the two windows is
closed to its micro-batch. That loses no solution; closing all of the other's visit to it, which may move yet, would.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from grainline.plan.skip.problem import SkipProblem
from grainline.plan.skip.walk import Visit, Walk


class Choice(NamedTuple):
    """What one micro-batch is forbidden: nodes; or to start a visit within a window, like `instead`, which it had."""

    agent: int
    nodes: tuple[int, ...] = ()
    instead: Visit | None = None
    until: float = 0.0


def first_violation(problem: SkipProblem, walks: Sequence[Walk], collisions: bool = True) -> tuple[Choice, ...] | None:
    """Choices, the likeliest first; None where all is obeyed. Without `collisions`, TC2 isn't looked at."""
    found = _stage_quota(problem, walks) or _node_quota(problem, walks)
    if found or not collisions:
        return found
    return _collision(problem, walks)


def excess(problem: SkipProblem, walks: Sequence[Walk]) -> int:
    """Visits beyond the quotas of stages and nodes."""
    by_node, by_stage = _users(problem, walks)
    stages = sum(max(0, len(users) - problem.capacity(stage)) for stage, users in by_stage.items())
    return stages + sum(max(0, len(users) - problem.slots) for users in by_node.values())


def _users(problem: SkipProblem, walks: Sequence[Walk]) -> tuple[dict[int, list[Walk]], dict[int, list[Walk]]]:
    """Who passes each node and each stage, stage 0 apart; the slowest last."""
    by_node: dict[int, list[Walk]] = defaultdict(list)
    by_stage: dict[int, list[Walk]] = defaultdict(list)
    for one in sorted(walks, key=lambda one: (one.seconds, one.agent)):
        for node in one.route[1:]:
            by_node[node].append(one)
            by_stage[problem.stage_of[node]].append(one)
    return by_node, by_stage


def _stage_quota(problem: SkipProblem, walks: Sequence[Walk]) -> tuple[Choice, ...] | None:
    _, by_stage = _users(problem, walks)
    for stage, users in sorted(by_stage.items()):
        if len(users) > problem.capacity(stage):
            return tuple(Choice(one.agent, problem.stages[stage]) for one in users)
    return None


def _node_quota(problem: SkipProblem, walks: Sequence[Walk]) -> tuple[Choice, ...] | None:
    by_node, _ = _users(problem, walks)
    for node, users in sorted(by_node.items()):
        if len(users) > problem.slots:
            return tuple(Choice(one.agent, (node,)) for one in users)
    return None


def _collision(problem: SkipProblem, walks: Sequence[Walk]) -> tuple[Choice, ...] | None:
    """The earliest. Of two forwards the slower micro-batch goes first, else the one that came earlier."""
    by_node: dict[int, list[tuple[Walk, Visit]]] = defaultdict(list)
    for one in walks:
        for visit in one.visits:
            by_node[visit.node].append((one, visit))
    overlaps = [
        (max(a.start, b.start), one.agent, other.agent, one, a, other, b)
        for visits in by_node.values()
        for (one, a), (other, b) in combinations(sorted(visits, key=lambda of: of[1].start), 2)
        if one is not other and a.overlaps(b)
    ]
    if not overlaps:
        return None
    *_, one, a, other, b = min(overlaps, key=lambda of: of[:3])
    choices = Choice(one.agent, instead=a, until=b.end), Choice(other.agent, instead=b, until=a.end)
    first_yields = one.seconds < other.seconds if a.what == b.what else b.start < a.start
    return choices if first_yields else choices[::-1]
