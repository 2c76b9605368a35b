"""When every micro-batch of a step is where, if each node takes what has come to it in the order in which it came.

A step may have more micro-batches than are planned at once. Those of a later round follow the same routes, each from
when the one before it on that route is back: it takes over its slots, so that no node ever holds more than its slots,
and nobody can wait in a ring for a slot. Of what waits at a node, what came first goes first, be it a forward or a
backward. Messages of one direction between two nodes go one after another, as those of two ranks do. This is the plan's
own clock; what a plan is worth says the simulator (`judge.py`).
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence

from grainline.plan.skip.problem import Route, SkipProblem, What
from grainline.plan.skip.walk import Visit, steps

Key = tuple[float, int, int, int]
"""Arrival, round, agent, place on the way."""


def timetable(problem: SkipProblem, routes: Sequence[Route], microbatches: int) -> tuple[tuple[Visit, ...], ...]:
    """The visits of each micro-batch; number m is of agent m mod agents, in round m // agents."""
    agents = len(routes)
    ways = [steps(route) for route in routes]
    found: list[list[Visit]] = [[] for _ in range(microbatches)]
    here: dict[int, list[Key]] = defaultdict(list)  # by node: what has come and waits
    free_at: dict[int, float] = defaultdict(float)
    sent: dict[tuple[bool, int, int], float] = defaultdict(float)  # when the last message of a stream has come
    coming: list[tuple[float, int, int, Key | None]] = []  # when, 0: a node is free or 1: an arrival, at which node

    def send(at: float, round_: int, agent: int, place: int) -> None:
        node, what = ways[agent][place]
        source = ways[agent][place - 1][0] if place else node
        if source != node:
            stream = what is What.BACKWARD, source, node
            at = sent[stream] = max(at, sent[stream]) + problem.transfer_seconds[source][node]
        heapq.heappush(coming, (at, 1, node, (at, round_, agent, place)))

    for agent in range(min(agents, microbatches)):
        send(problem.release_seconds[agent], 0, agent, 0)
    while coming:
        now, _, node, key = heapq.heappop(coming)
        if key is not None:
            heapq.heappush(here[node], key)
        if free_at[node] > now or not here[node]:
            continue
        _, round_, agent, place = heapq.heappop(here[node])
        what = ways[agent][place][1]
        end = now + problem.seconds(node, what)
        found[round_ * agents + agent].append(Visit(node, what, now, end))
        free_at[node] = end
        heapq.heappush(coming, (end, 0, node, None))
        if place + 1 < len(ways[agent]):
            send(end, round_, agent, place + 1)
        elif (round_ + 1) * agents + agent < microbatches:
            send(end, round_ + 1, agent, 0)
    return tuple(map(tuple, found))


def step_seconds(problem: SkipProblem, routes: Sequence[Route], microbatches: int) -> float:
    """When the last micro-batch is back."""
    return max(mine[-1].end for mine in timetable(problem, routes, microbatches))


def starts_of(problem: SkipProblem, visits: Sequence[Visit]) -> tuple[float, ...]:
    """Planned starts as `schedule.partial` has them: the loss is the forward and the backward of the last hop."""
    found = []
    for visit in visits:
        found.append(visit.start)
        if visit.what is What.LOSS:
            found.append(visit.start + problem.seconds(visit.node, What.LOSS) / (1 + problem.backward_ratio))
    return tuple(found)
