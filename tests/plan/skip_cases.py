"""Small problems of partial pipelines, and answers to them that are found by trying everything."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from grainline.plan.skip.check import check_routes
from grainline.plan.skip.problem import Route, SkipProblem


def problem(
    sizes: Sequence[int] = (2, 1, 1, 1),
    length: int = 3,
    agents: int = 2,
    *,
    seed: int = 0,
    missing: float = 0.0,
    furthest: int = 30,
    **rest: object,
) -> SkipProblem:
    """Random times of tenths of a second, nodes numbered by stage, micro-batches shared out among the data nodes."""
    rng = random.Random(seed)
    ends = list(itertools.accumulate(sizes))
    stages = tuple(tuple(range(end - size, end)) for end, size in zip(ends, sizes, strict=True))
    nodes = ends[-1]
    hops = [
        [rng.randint(1, furthest) / 10 if rng.random() >= missing else float("inf") for _ in range(nodes)]
        for _ in range(nodes)
    ]
    for node in range(nodes):
        hops[node][node] = 0.0
    return SkipProblem(
        stages,
        tuple(rng.randint(2, 12) / 10 for _ in range(nodes)),
        tuple(map(tuple, hops)),
        tuple(stages[0][agent % sizes[0]] for agent in range(agents)),
        length,
        **{"slots": agents, **rest},  # type: ignore[arg-type]
    )


def every_route(p: SkipProblem, agent: int) -> Iterator[Route]:
    """All that CC1 to CC3 allow, by the independent check: every choice of nodes, in every order."""
    others = [node for nodes in p.stages[1:] for node in nodes]
    start = p.starts[agent]
    for rest in itertools.permutations(others, p.path_length - 1):
        route = (start, *rest)
        words = check_routes(p, [route if i == agent else (p.starts[i],) for i in range(p.agents)])
        if not any(w.startswith((f"micro-batch {agent}:", "there is no way")) for w in words):
            yield route


def round_trip(p: SkipProblem, route: Route, release: float) -> float:
    """Seconds, without waiting: there, the loss at home, and back."""
    w, hop = p.forward_seconds, p.transfer_seconds
    now = release
    for x, y in zip(route, (*route[1:], route[0]), strict=True):
        now += w[x] + hop[x][y]
    now += p.loss_share * w[route[0]]
    for x, y in zip(reversed((*route[1:], route[0])), reversed(route), strict=True):
        now += hop[x][y] + p.backward_ratio * w[y]
    return now


def shortest_longest(p: SkipProblem) -> float:
    """The shortest longest walk over all joint routes within the quotas, each joint choice timed in every order."""
    best = float("inf")
    alone = [{r: round_trip(p, r, p.release_seconds[a]) for r in every_route(p, a)} for a in range(p.agents)]
    for joint in itertools.product(*alone):
        if max(seconds[route] for seconds, route in zip(alone, joint, strict=True)) >= best:
            continue
        if any("TC1" in words for words in check_routes(p, joint)):
            continue
        best = min(best, _ordered(p, joint, frozenset(), best))
    return best


def _ordered(
    p: SkipProblem, joint: Sequence[Route], before: frozenset[tuple[tuple[int, int], tuple[int, int]]], best: float
) -> float:
    """Of fixed routes: for each pair of visits that get into each other's way, either goes first.

    `before` holds pairs of visits (agent, place on the way) of which the first must end before the second starts.
    """
    starts = _earliest(p, joint, before, best)
    if starts is None:
        return float("inf")
    every = sorted(
        (start, agent, place) for agent, mine in enumerate(starts) for place, (_, start, _) in enumerate(mine)
    )
    for (_, a, i), (_, b, j) in itertools.combinations(every, 2):
        if a == b:
            continue
        (x, s, e), (y, t, f) = starts[a][i], starts[b][j]
        backwards = i > p.path_length and j > p.path_length
        if x == y and not backwards and s < f - 1e-9 and t < e - 1e-9:
            for order in (((a, i), (b, j)), ((b, j), (a, i))):
                best = min(best, _ordered(p, joint, before | {order}, best))
            return best
    return max(mine[-1][2] for mine in starts)


def _earliest(
    p: SkipProblem, joint: Sequence[Route], before: frozenset[tuple[tuple[int, int], tuple[int, int]]], best: float
) -> list[list[tuple[int, float, float]]] | None:
    """(node, start, end) of each visit, as early as the order lets it; None if it goes in a circle or over `best`."""
    ways = []
    for agent, route in enumerate(joint):
        nodes = [*route, route[0], *reversed(route)]
        shares = [1.0] * len(route) + [p.loss_share] + [p.backward_ratio] * len(route)
        ways.append(
            (p.release_seconds[agent], nodes, [s * p.forward_seconds[n] for s, n in zip(shares, nodes, strict=True)])
        )
    starts = [[0.0] * len(nodes) for _, nodes, _ in ways]
    for _ in range(sum(len(nodes) for _, nodes, _ in ways) + 1):
        changed = False
        for agent, (release, nodes, lasts) in enumerate(ways):
            for i, node in enumerate(nodes):
                hop = 0.0 if not i or nodes[i - 1] == node else p.transfer_seconds[nodes[i - 1]][node]
                at = release if i == 0 else starts[agent][i - 1] + lasts[i - 1] + hop
                for (b, j), then in before:
                    if then == (agent, i):
                        at = max(at, starts[b][j] + ways[b][2][j])
                if at > starts[agent][i] + 1e-12:
                    starts[agent][i], changed = at, True
                if at > best:
                    return None
        if not changed:
            return [
                [(n, s, s + last) for n, s, last in zip(nodes, mine, lasts, strict=True)]
                for (_, nodes, lasts), mine in zip(ways, starts, strict=True)
            ]
    return None
