"""The searches behind `cut`: dynamic programming, local moves, branch and bound, over tables of what stages take."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

import numpy as np

from grainline.schedule.simulator.graph import Floats, Ints

NODES = 10_000
"""Branch and bound gives up its proof after so many."""
TRIED = 40_000
"""Cuts that are two moves away, of which so many are looked at."""


@dataclass(frozen=True)
class Problem:
    """`seconds[s, i, j]` and `bytes[s, i, j]` are what stage s takes on its rank if it holds cells i … j − 1."""

    placement: Ints
    seconds: Floats  # infinity where j < i
    bytes: Floats
    capacity: Floats  # by rank

    @property
    def stages(self) -> int:
        """How many."""
        return len(self.placement)

    @property
    def cells(self) -> int:
        """How many."""
        return self.seconds.shape[1] - 1

    @property
    def ranks(self) -> int:
        """How many, idle ones included."""
        return len(self.capacity)

    @property
    def backwards(self) -> Floats:
        """Infinity where j < i, else 0."""
        below = np.tri(self.cells + 1, k=-1, dtype=bool)
        return np.where(below, np.inf, 0.0)

    def of_stages(self, sizes: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Seconds and bytes of each stage."""
        ends = np.cumsum(sizes)
        stage = np.arange(self.stages)
        return self.seconds[stage, ends - sizes, ends], self.bytes[stage, ends - sizes, ends]

    def of_ranks(self, of_stages: Floats) -> Floats:
        """Sums over the stages of each rank; the last axis is the stages'."""
        sums = np.zeros((*of_stages.shape[:-1], self.ranks))
        for stage, rank in enumerate(self.placement):
            sums[..., rank] += of_stages[..., stage]
        return sums

    def excess_bytes(self, sizes: tuple[int, ...]) -> float:
        """The most that a rank has too much."""
        need = self.of_ranks(self.of_stages(sizes)[1])
        return float(np.maximum(need - self.capacity, 0.0).max())


def minimax(cost: Floats) -> tuple[int, ...]:
    """Sizes whose largest `cost[s, i, j]` is least; infinite where there are none."""
    return _best_chain(cost, np.maximum)


def least_squares(cost: Floats) -> tuple[int, ...]:
    """Sizes whose squared costs sum to least."""
    return _best_chain(cost**2, np.add)


def _best_chain(cost: Floats, combine: np.ufunc) -> tuple[int, ...]:
    """Dynamic programming over stages: best[j] is the least for the first j cells."""
    stages, cells = cost.shape[0], cost.shape[1] - 1
    best, choice = cost[0, 0, :], []
    for stage in range(1, stages):
        through = combine(best[:, None], cost[stage])  # [i, j]
        choice.append(through.argmin(axis=0))
        best = through.min(axis=0)
    sizes, end = [], cells
    for before in reversed(choice):
        start = int(before[end])
        sizes.append(end - start)
        end = start
    return (end, *reversed(sizes))


def one_stage_each(problem: Problem) -> tuple[int, ...] | None:
    """The cut whose stages' seconds, largest first, come first in the dictionary's order; None if none fits.

    Adding a stage to two cuts of the stages before keeps their order, so the best cut holds a best one of each prefix.
    """
    room = problem.capacity[problem.placement, None, None]
    cost = np.where(problem.bytes > room, np.inf, problem.seconds)
    bottleneck = float(max(cost[s, i, j] for s, i, j in _spans(minimax(cost))))
    if bottleneck == np.inf:
        return None
    # best[j]: of cuts of the first j cells, the stages' seconds in ascending order, and the sizes
    best: dict[int, tuple[list[float], tuple[int, ...]]] = {0: ([], ())}
    for stage in range(problem.stages):
        after: dict[int, tuple[list[float], tuple[int, ...]]] = {}
        for i, (taken, sizes) in best.items():
            for j in np.flatnonzero(cost[stage, i, :] <= bottleneck):
                times = list(taken)
                insort(times, float(cost[stage, i, j]))
                found = (times, (*sizes, int(j) - i))
                if int(j) not in after or _order(found) < _order(after[int(j)]):
                    after[int(j)] = found
        best = after
    return best[problem.cells][1]


def _order(found: tuple[list[float], tuple[int, ...]]) -> tuple[list[float], tuple[int, ...]]:
    return found[0][::-1], found[1]


def _spans(sizes: tuple[int, ...]) -> list[tuple[int, int, int]]:
    ends = np.cumsum(sizes).tolist()
    return [(s, end - n, end) for s, (n, end) in enumerate(zip(sizes, ends, strict=True))]


def local_moves(problem: Problem, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Take a cell from one stage and give one to another, all between shifting by one; twice where once is of no use.

    What helps: fewer bytes too many, then the ranks' seconds and the stages', each largest first.
    """
    stages = problem.stages
    moves = np.array([(a, b) for a in range(stages) for b in range(stages) if a != b])
    delta = np.zeros((len(moves), stages), dtype=int)
    np.put_along_axis(delta, moves[:, :1], -1, axis=1)
    np.put_along_axis(delta, moves[:, 1:], 1, axis=1)
    here, score = np.array([sizes]), tuple(_score(problem, np.array([sizes]))[0])
    while True:
        around, scores = _neighbours(problem, here[:1], delta)
        if not len(around) or tuple(scores[0]) >= score:
            around, scores = _neighbours(problem, around[: max(1, TRIED // len(delta))], delta)
        if not len(around) or tuple(scores[0]) >= score:
            return tuple(here[0].tolist())
        here, score = around, tuple(scores[0])


def _neighbours(problem: Problem, sizes: Ints, delta: Ints) -> tuple[Ints, Floats]:
    """All that one move makes of some cuts, and their scores, the best first."""
    found = (sizes[:, None, :] + delta).reshape(-1, sizes.shape[-1])
    found = found[(found >= 0).all(axis=1)]
    scores = _score(problem, found)
    order = np.lexsort(scores.T[::-1])
    return found[order], scores[order]


def best_of_moves(problem: Problem) -> tuple[int, ...]:
    """Local moves from two starts: stages as equal as can be, by their largest and by their squares."""
    starts = (minimax(problem.seconds), least_squares(problem.seconds))
    found = np.array([local_moves(problem, start) for start in starts])
    return tuple(found[np.lexsort(_score(problem, found).T[::-1])[0]].tolist())


def _score(problem: Problem, sizes: Ints) -> Floats:
    """One row for each row of sizes, to be compared as dictionaries do; rounded, so that noise decides nothing."""
    ends = np.cumsum(sizes, axis=1)
    stage = np.arange(problem.stages)
    seconds = problem.seconds[stage, ends - sizes, ends]
    need = problem.of_ranks(problem.bytes[stage, ends - sizes, ends])
    excess = np.maximum(need - problem.capacity, 0.0).max(axis=1, keepdims=True)
    ranks = -np.sort(-problem.of_ranks(seconds), axis=1)
    unit = float(problem.seconds[np.isfinite(problem.seconds)].max()) or 1.0
    return np.hstack([excess, np.round(np.hstack([ranks, -np.sort(-seconds, axis=1)]) / unit, 12)])


def exact(problem: Problem, start: tuple[int, ...]) -> tuple[tuple[int, ...] | None, bool]:
    """The cut of the least (busiest rank, largest stage) from `start`'s on, and whether that is proven."""
    search = _BranchAndBound(problem, start)
    proven = search.run()
    return search.best, proven


class _BranchAndBound:
    """Stage after stage, giving up where what is placed, or what must still be placed somewhere, is no better."""

    def __init__(self, problem: Problem, start: tuple[int, ...]) -> None:
        self.problem = problem
        fits = problem.excess_bytes(start) == 0
        seconds = problem.of_stages(start)[0]
        worst = (float("inf"), float("inf"))
        self.bound = (float(problem.of_ranks(seconds).max()), float(seconds.max())) if fits else worst
        self.best: tuple[int, ...] | None = start if fits else None
        # What the cells from i on take at least, on whichever rank is fastest for each.
        single = np.array([[problem.seconds[s, i, i + 1] for i in range(problem.cells)] for s in range(problem.stages)])
        self.rest = np.append(np.cumsum(single.min(axis=0)[::-1])[::-1], 0.0)
        self.used = len(set(problem.placement.tolist()))
        self.nodes = 0

    def run(self) -> bool:
        """Whether all was searched."""
        ranks = self.problem.ranks
        return self._from(0, 0, [0.0] * ranks, [0.0] * ranks, 0.0, ())

    def _from(
        self, stage: int, first: int, loads: list[float], held: list[float], largest: float, sizes: tuple[int, ...]
    ) -> bool:
        problem, cells = self.problem, self.problem.cells
        self.nodes += 1
        if self.nodes > NODES:
            return False
        rank, last = int(problem.placement[stage]), stage == problem.stages - 1
        # Sizes around an even share first: a good cut early prunes most of the rest.
        share = (cells - first) / (problem.stages - stage)
        ends = [cells] if last else sorted(range(first, cells + 1), key=lambda end: abs(end - first - share))
        complete = True
        for end in ends:
            took = float(problem.seconds[stage, first, end])
            load, room = loads[rank] + took, held[rank] + float(problem.bytes[stage, first, end])
            if room > problem.capacity[rank] or load > self.bound[0]:
                continue
            now = [*loads[:rank], load, *loads[rank + 1 :]]
            chunk = max(largest, took)
            even = (sum(now) + self.rest[end]) / self.used  # no rank may end below the mean
            if (max(max(now), even * (1 - 1e-12)), chunk) >= self.bound:
                continue
            if last:
                self.bound, self.best = (max(now), chunk), (*sizes, end - first)
                continue
            taken = [*held[:rank], room, *held[rank + 1 :]]
            complete &= self._from(stage + 1, end, now, taken, chunk, (*sizes, end - first))
        return complete
