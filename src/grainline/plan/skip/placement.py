"""Which node serves which stage: groups of given sizes, in which order, by a genetic search with cyclic moves.

What is made small (DT-FM, arXiv 2206.01288, as SkipPipe uses it) is, per micro-batch: the way through the stages, each
hop as slow as its slowest pair when the nodes of two stages are paired as well as can be; and the all-reduce of
gradients, as slow as the worst pair within a stage, weighted with how much larger gradients are than all activations of
a step. The order of the stages is exact, an open way through all groups from the data nodes' on; so is the pairing. The
groups are the work of chance: pairs of parents are crossed, and nodes change places in cycles of two or three groups
(Kim et al. 2011, for partitions of given sizes) as long as that helps.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, permutations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from grainline.documents import GrainlineError

Floats = NDArray[np.float64]
Group = tuple[int, ...]

FEW = 5040
"""Pairings that are tried one by one; beyond that an assignment is solved for each threshold."""


@dataclass(frozen=True)
class Placement:
    """Nodes of each stage, the data nodes' first, and the cost that was made small, in seconds per micro-batch."""

    stages: tuple[Group, ...]
    seconds: float


def place(
    transfer_seconds: Sequence[Sequence[float]],
    sizes: Sequence[int],
    *,
    gradient_weight: float = 0.0,
    seed: int = 0,
    trials: int = 2000,
    population: int = 100,
    moves: int = 6,
    until: float = float("inf"),
) -> Placement:
    """Groups of `sizes` (stage 0's first) out of all nodes; nodes left over serve no stage.

    `gradient_weight` is the bytes of a stage's gradients over those of the activations that a data node sends in a
    step. `moves` are tries at a cyclic move for each child. Stops after `trials` children, or when time.monotonic()
    says `until`. Raises GrainlineError where there are fewer nodes than places.
    """
    hop = np.array(transfer_seconds, dtype=np.float64)
    if sum(sizes) > len(hop) or min(sizes, default=0) < 1:
        raise GrainlineError(
            f"stages of {', '.join(map(str, sizes))} nodes take {sum(sizes)} of {len(hop)}, and each needs one or more"
        )
    costs = _Costs(np.maximum(hop, hop.T), tuple(sizes), gradient_weight)
    rng = random.Random(seed)
    nodes = list(range(len(hop)))
    people = [rng.sample(nodes, len(nodes)) for _ in range(population)]
    scored = [(costs.of(one), one) for one in people]
    for _ in range(trials):
        if time.monotonic() > until:
            break
        a, b = rng.sample(range(population), 2)
        child = _moved(_crossed(scored[a][1], scored[b][1], costs.bounds, rng), costs, rng, moves)
        worse = max(a, b, key=lambda i: scored[i][0])
        if child[0] <= scored[worse][0] and all(child[1] != one for _, one in scored):
            scored[worse] = child
    seconds, best = min(scored)
    return Placement(costs.ordered(best), seconds)


class _Costs:
    """Of an arrangement: all nodes in a row, stage 0's first, then each group's; the rest is left over."""

    def __init__(self, hop: Floats, sizes: tuple[int, ...], gradient_weight: float) -> None:
        self.hop, self.sizes, self.gradient_weight = hop, sizes, gradient_weight
        ends = np.cumsum(sizes).tolist()
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))

    def groups(self, row: Sequence[int]) -> list[Group]:
        return [tuple(sorted(row[begin:end])) for begin, end in self.bounds]

    def of(self, row: Sequence[int]) -> float:
        groups = self.groups(row)
        within = max(float(self.hop[np.ix_(group, group)].max()) for group in groups)
        return self.way(groups)[0] + (self.gradient_weight * within if self.gradient_weight else 0.0)

    def way(self, groups: Sequence[Group]) -> tuple[float, tuple[int, ...]]:
        """The best order of the groups and what it costs; sizes that differ say already which stage is whose."""
        if len(set(self.sizes[1:])) > 1:
            hops = [pairing(self.hop[np.ix_(one, other)])[0] for one, other in pairwise(groups)]
            return sum(hops), tuple(range(len(groups)))
        between = np.zeros((len(groups), len(groups)))
        for i, one in enumerate(groups):
            for j in range(i):
                between[i, j] = between[j, i] = pairing(self.hop[np.ix_(one, groups[j])])[0]
        return shortest_way(between)

    def ordered(self, row: Sequence[int]) -> tuple[Group, ...]:
        groups = self.groups(row)
        return tuple(groups[i] for i in self.way(groups)[1])


def _crossed(one: list[int], other: list[int], bounds: list[tuple[int, int]], rng: random.Random) -> list[int]:
    """A copy of `one`, with some nodes in the groups that they are in with the `other`; it changes places in pairs."""
    child = list(one)
    place = {node: i for i, node in enumerate(child)}
    for node in rng.sample(child, min(5, len(child))):
        at = other.index(node)
        begin, end = next(((b, e) for b, e in bounds if b <= at < e), (bounds[-1][1], len(child)))
        if begin < end and not begin <= place[node] < end:
            there = rng.randrange(begin, end)
            here, guest = place[node], child[there]
            child[here], child[there] = guest, node
            place[node], place[guest] = there, here
    return child


def _moved(row: list[int], costs: _Costs, rng: random.Random, tries: int) -> tuple[float, list[int]]:
    """Cyclic moves that help: nodes of two or three groups go each to the next one's place."""
    best = costs.of(row)
    for _ in range(tries):
        places = rng.sample(range(len(row)), min(len(row), rng.choice((2, 2, 3))))
        tried = list(row)
        for here, there in zip(places, places[1:] + places[:1], strict=True):
            tried[there] = row[here]
        seconds = costs.of(tried)
        if seconds < best:
            best, row = seconds, tried
    return best, row


def pairing(costs: Floats) -> tuple[float, tuple[tuple[int, int], ...]]:
    """All of the smaller side paired with different ones of the larger, with the slowest pair as fast as can be.

    Rows × columns → the slowest pair's cost, and the pairs as (row, column), by row.
    """
    if costs.shape[0] > costs.shape[1]:
        seconds, pairs = pairing(costs.T)
        return seconds, tuple(sorted((row, column) for column, row in pairs))
    small, large = costs.shape
    tried = _pairings(small, large)
    if tried is not None:
        slowest = costs[np.arange(small), tried].max(axis=1)
        best = int(slowest.argmin())
        return float(slowest[best]), tuple(enumerate(tried[best].tolist()))
    steps = np.unique(costs)
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        if _number_above(costs, steps[middle])[0] == 0:
            high = middle
        else:
            low = middle + 1
    return float(steps[low]), _number_above(costs, steps[low])[1]


def _number_above(costs: Floats, seconds: float) -> tuple[int, tuple[tuple[int, int], ...]]:
    """The fewest pairs slower than that, and the pairing."""
    rows, columns = linear_sum_assignment(costs > seconds)
    return int((costs[rows, columns] > seconds).sum()), tuple(zip(rows.tolist(), columns.tolist(), strict=True))


@lru_cache(maxsize=64)
def _pairings(small: int, large: int) -> NDArray[np.int64] | None:
    count = 1
    for i in range(small):
        count *= large - i
        if count > FEW:
            return None
    return np.array(list(permutations(range(large), small)), dtype=np.int64)


def shortest_way(costs: Floats) -> tuple[float, tuple[int, ...]]:
    """From group 0 through all others, each once, ending anywhere: exact, by dynamic programming over sets."""
    n = len(costs)
    rows = costs.tolist()
    best: dict[tuple[int, int], tuple[float, int]] = {(1, 0): (0.0, -1)}  # set, last → cost, the one before
    for chosen in range(1, 1 << n, 2):
        for last in range(n):
            if (chosen, last) not in best:
                continue
            so_far = best[chosen, last][0]
            for further in range(1, n):
                if chosen >> further & 1:
                    continue
                key, cost = (chosen | 1 << further, further), so_far + rows[last][further]
                if key not in best or cost < best[key][0]:
                    best[key] = cost, last
    chosen = (1 << n) - 1
    last = min((i for i in range(n) if (chosen, i) in best), key=lambda i: best[chosen, i][0])
    total, way = best[chosen, last][0], [last]
    while len(way) < n:
        before = best[chosen, last][1]
        chosen, last = chosen ^ (1 << last), before
        way.append(before)
    return total, tuple(reversed(way))
