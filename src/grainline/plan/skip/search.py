"""One micro-batch's routes, the quickest round trip first: best-first search with a bound that never overestimates.

A state is a route so far and the time at which its last forward ends. The bound adds what the rest must take at least:
all backwards and ways back of the route so far, and the cheapest chain of as many further nodes as are missing, each
there and back, to the data node and its loss. Waiting only makes it later. A chain need not be a legal route, so the
bound can be too low, never too high; of complete routes the exact time is known.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from grainline.plan.skip.problem import SkipProblem, What
from grainline.plan.skip.walk import NOTHING, Walk, Windows, earliest, walk

Floats = NDArray[np.float64]


def best_route(
    problem: SkipProblem, agent: int, forbidden: Collection[int] = (), windows: Windows = NOTHING
) -> Walk | None:
    """The quickest walk that visits none of the `forbidden` nodes; None if there is none. Of equals the first route."""
    return next(routes(problem, agent, forbidden, windows), None)


def routes(
    problem: SkipProblem, agent: int, forbidden: Collection[int] = (), windows: Windows = NOTHING
) -> Iterator[Walk]:
    """All of them, in order of when they are back, then of their nodes."""
    start = problem.starts[agent]
    rest = _least_rest(problem, start, frozenset(forbidden))
    transfer, stage_of = problem.transfer_seconds, problem.stage_of
    left = problem.path_length - 1

    def entry(route: tuple[int, ...], end: float, back: float) -> tuple[float, tuple[int, ...], float, float, None]:
        return end + back + float(rest[left - len(route) + 1][route[-1]]), route, end, back, None

    begin = earliest(windows, start, What.FORWARD, problem.release_seconds[agent])
    first = begin + problem.seconds(start, What.FORWARD)
    waiting: list[tuple[float, tuple[int, ...], float, float, Walk | None]]
    waiting = [entry((start,), first, problem.seconds(start, What.BACKWARD))]
    while waiting:
        bound, route, end, back, complete = heapq.heappop(waiting)
        if bound == float("inf"):
            return
        if complete is not None:
            yield complete
            continue
        if len(route) == problem.path_length:
            exact = walk(problem, agent, route, windows)
            heapq.heappush(waiting, (exact.seconds, route, end, back, exact))
            continue
        at = route[-1]
        for stage in problem.next_stages([stage_of[node] for node in route]):
            for node in problem.stages[stage]:
                if node in forbidden:
                    continue
                begin = earliest(windows, node, What.FORWARD, end + transfer[at][node])
                done = begin + problem.seconds(node, What.FORWARD)
                further = back + transfer[node][at] + problem.seconds(node, What.BACKWARD)
                heapq.heappush(waiting, entry((*route, node), done, further))


def _least_rest(problem: SkipProblem, start: int, forbidden: frozenset[int]) -> list[Floats]:
    """`[k][x]`: what is left at least, from the end of a forward at x, with k more stages to visit.

    Between two nodes only what CC2 says of two neighbouring stages is heeded: not more than one stage back, and not
    further on than from a frontier one stage ahead.
    """
    forward, stage = np.array(problem.forward_seconds), np.array(problem.stage_of)
    hop = np.array(problem.transfer_seconds)
    there_and_back = hop + hop.T  # [from, to]
    last = there_and_back[:, start] + problem.seconds(start, What.LOSS)
    last[start] = problem.seconds(start, What.LOSS)
    step = stage[None, :] - stage[:, None]
    allowed = (step >= -1) & (step != 0) & (step <= problem.max_jump + 1) & (stage[None, :] > 0) & (stage[:, None] >= 0)
    allowed[:, list(forbidden)] = False
    onward = np.where(allowed, there_and_back + (1 + problem.backward_ratio) * forward[None, :], np.inf)
    found = [last]
    for _ in range(problem.path_length - 1):
        found.append((onward + found[-1][None, :]).min(axis=1))
    return found
