"""Searches: which strategies are looked at, and in which order. All return the same, so that they can be compared."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from grainline.documents import GrainlineError
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.space import Pins, strategies
from grainline.plan.layouts.step import Estimate, evaluate
from grainline.plan.layouts.strategy import Strategy

Tell = Callable[[int, Estimate | None], None]
"""Called now and then with how many were evaluated, and the best so far."""


@dataclass(frozen=True)
class Ranked:
    """A strategy on devices in an order."""

    estimate: Estimate
    fleet: Fleet


@dataclass(frozen=True)
class Found:
    """What a search found: the best first, and why others were not taken."""

    best: tuple[Ranked, ...]
    evaluated: int
    too_large: int  # strategies that don't fit into memory
    nearest: Estimate | None  # of those the one that lacks least
    complete: bool  # whether the whole space was looked at

    def first(self) -> Ranked:
        """The best; raises GrainlineError with what would make one feasible where none is."""
        if not self.best:
            raise GrainlineError(infeasible(self.nearest, self.evaluated))
        return self.best[0]


Search = Callable[[Problem, Pins, float, int, Tell], Found]
"""Problem, pins, seconds it may take, how many to keep, who is told → what was found."""


def exhaustive(problem: Problem, pins: Pins, seconds: float, keep: int, tell: Tell) -> Found:
    """Every strategy of the space, with time and memory, for as long as allowed."""
    return choose(problem, strategies(problem, pins), seconds, keep, tell)


def choose(problem: Problem, candidates: Iterable[Strategy], seconds: float, keep: int, tell: Tell) -> Found:
    """The fastest of the candidates that fit."""
    end = time.monotonic() + seconds
    heap: list[tuple[float, int, Estimate]] = []
    nearest: Estimate | None = None
    counts: Counter[str] = Counter()
    complete = True
    for strategy in candidates:
        estimate = evaluate(problem, strategy)
        counts["evaluated"] += 1
        if estimate.fits:
            entry = (-estimate.step_seconds, -counts["evaluated"], estimate)
            if len(heap) < keep:
                heapq.heappush(heap, entry)
            elif entry > heap[0]:
                heapq.heapreplace(heap, entry)
        else:
            counts["too large"] += 1
            if nearest is None or estimate.occupancy < nearest.occupancy:
                nearest = estimate
        if counts["evaluated"] % 256 == 0:
            tell(counts["evaluated"], max(heap)[2] if heap else None)
            if time.monotonic() > end:
                complete = False
                break
    best = tuple(Ranked(estimate, problem.fleet) for *_, estimate in sorted(heap, reverse=True))
    return Found(best, counts["evaluated"], counts["too large"], nearest, complete)


def infeasible(nearest: Estimate | None, evaluated: int) -> str:
    """What to tell a person whose model fits nowhere."""
    if nearest is None:
        return "No layout divides this model, batch and cluster: change the batch, or leave some choice open (--pin)."
    rank = max(range(len(nearest.memory)), key=lambda r: nearest.memory[r].total / nearest.capacity[r])
    memory, capacity = nearest.memory[rank], nearest.capacity[rank]
    largest = max(memory._asdict().items(), key=lambda item: item[1])
    return (
        f"None of {evaluated:,} layouts fits into memory. The nearest, {nearest.strategy}, needs "
        f"{memory.total / 1e9:,.1f} GB of {capacity / 1e9:,.1f} GB on pipeline rank {rank}, most of it for "
        f"{largest[0]} ({largest[1] / 1e9:,.1f} GB). Take more or larger devices, or a smaller batch or model."
    )


SEARCHES: Mapping[str, Search] = {"exhaustive": exhaustive}
