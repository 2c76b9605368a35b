"""Collectives as one flow over a ring of ranks: how long its steps take, how many bytes cross which links.

Of n ranks in the order in which they stand in the task. A sum at all (C1, C2, REDUCE) sends 2(n − 1)/n of its tensor
over every hop of the closed ring, in 2(n − 1) steps (reduce-scatter, then all-gather). A copy from one rank to all (C0,
C_EMBED_GRAD) and a sum at one (C_EMBED) send all of it over every hop of the open ring that begins, or ends, at that
rank, cut into pieces, in n − 1 steps. A step costs the latency of the slowest hop; the bytes move over all hops at
once, at the pace of the one that has least to give. A link that several hops cross is crossed several times.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from grainline.schedule.actions import Kind
from grainline.schedule.schedule import Schedule
from grainline.schedule.simulator.network import Network

FROM_ONE = frozenset({Kind.C0, Kind.C_EMBED_GRAD})
TO_ONE = frozenset({Kind.C_EMBED})


@dataclass(frozen=True)
class Crossing:
    """What a task does to links: seconds of latency, then bytes over each of `links`."""

    seconds: float
    bytes: float
    links: tuple[int, ...]


NOTHING = Crossing(0.0, 0.0, ())


def crossing(kind: Kind, ranks: tuple[int, ...], root: int, tensor_bytes: float, network: Network) -> Crossing:
    """Of one collective. `root` is the rank that a copy comes from, or a sum goes to; sums at all have none."""
    n = len(ranks)
    if n == 1:
        return NOTHING
    if kind in FROM_ONE | TO_ONE:
        first = ranks.index(root) if root in ranks else 0
        chain = ranks[first:] + ranks[:first]
        if kind in TO_ONE:
            chain = chain[1:] + chain[:1]
        hops, steps, over_each = list(pairwise(chain)), n - 1, tensor_bytes
    else:
        hops, steps = list(zip(ranks, ranks[1:] + ranks[:1], strict=True)), 2 * (n - 1)
        over_each = 2 * (n - 1) / n * tensor_bytes
    routes = [network.route(*hop) for hop in hops]
    slowest = max(route.latency_seconds for route in routes)
    return Crossing(steps * slowest, over_each, tuple(link for route in routes for link in route.links))


def root_of(schedule: Schedule, kind: Kind, microbatch: int) -> int:
    """The rank that has the last stage (C0), or the first (the embedding's collectives)."""
    path = schedule.paths[microbatch] if 0 <= microbatch < schedule.microbatches else None
    if path is None or kind not in FROM_ONE | TO_ONE:
        return -1
    return path[-1].rank if kind is Kind.C0 else path[0].rank
