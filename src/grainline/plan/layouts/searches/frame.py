"""What all searches have in common: what they are given, what they return, and how candidates are ranked."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import permutations

from grainline.documents import GrainlineError
from grainline.plan.layouts import objective
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.objective import Objective
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.space import Pins
from grainline.plan.layouts.step import Estimate, evaluate
from grainline.plan.layouts.strategy import Strategy

MOST_ORDERS = 24  # of node types along the pipeline that are tried


@dataclass(frozen=True)
class Ranked:
    """A strategy on devices in an order."""

    estimate: Estimate
    fleet: Fleet

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.estimate.step_seconds

    def key(self, objective: Objective) -> tuple[float, int]:
        """What a ranking goes by: the objective to six digits, then how many kinds of groups there are."""
        st = self.estimate.strategy
        sizes = (st.tensor, st.context, st.pipeline, st.expert, st.expert_tensor, st.chunks)
        groups = sum(size > 1 for size in sizes) + (st.recompute != "none")
        return float(f"{objective(self.estimate, self.fleet):.6g}"), groups


@dataclass(frozen=True)
class Found:
    """What a search found: the best first, and why others were not taken."""

    best: tuple[Ranked, ...]
    evaluated: int
    too_large: int  # strategies that don't fit into memory
    nearest: Estimate | None  # of those the one that lacks least
    complete: bool  # whether all that was to be looked at was
    interrupted: bool = False  # by Ctrl-C

    def first(self) -> Ranked:
        """The best; raises GrainlineError with what would make one feasible where none is."""
        if not self.best:
            raise GrainlineError(infeasible(self.nearest, self.evaluated))
        return self.best[0]


Tell = Callable[[int, Ranked | None], None]
"""Called now and then with how many were evaluated, and the best so far."""


@dataclass(frozen=True)
class Budget:
    """What a search may take, and what it tells meanwhile."""

    seconds: float = 60.0
    keep: int = 10
    seed: int = 0
    objective: Objective = objective.time
    skip: int = 0  # strategies that an interrupted search has looked at before
    known: tuple[Ranked, ...] = ()  # what it had found
    too_large: int = 0  # and how many had not fitted
    tell: Tell = lambda evaluated, best: None
    started: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> bool:
        """Whether time is over."""
        return time.monotonic() - self.started > self.seconds


Search = Callable[[Problem, Pins, Budget], Found]


class Ranking:
    """The best of what has been evaluated so far, each strategy once."""

    def __init__(self, keep: int, objective: Objective) -> None:
        self.keep, self.objective = keep, objective
        self.nearest: Estimate | None = None
        self.counts: Counter[str] = Counter()
        self._heap: list[tuple[tuple[float, int], int, Ranked]] = []  # the worst first, keys negated

    def add(self, ranked: Ranked) -> None:
        """Take it into account."""
        self.counts["evaluated"] += 1
        estimate = ranked.estimate
        if not estimate.fits:
            self.counts["too large"] += 1
            if self.nearest is None or estimate.occupancy < self.nearest.occupancy:
                self.nearest = estimate
            return
        least, groups = ranked.key(self.objective)
        entry = (-least, -groups), -self.counts["evaluated"], ranked
        if len(self._heap) < self.keep:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    @property
    def best(self) -> Ranked | None:
        """So far."""
        return max(self._heap)[2] if self._heap else None

    def found(self, *, complete: bool, interrupted: bool = False) -> Found:
        """As a search returns it."""
        best = tuple(ranked for *_, ranked in sorted(self._heap, reverse=True))
        counts = self.counts
        return Found(best, counts["evaluated"], counts["too large"], self.nearest, complete, interrupted)


def rank_all(problems: Iterable[tuple[Problem, Iterable[Strategy]]], budget: Budget) -> Found:
    """Evaluate each strategy on its problem, as long as there is time; Ctrl-C ends it with what there is."""
    ranking = Ranking(budget.keep, budget.objective)
    for ranked in budget.known:
        ranking.add(ranked)
    ranking.counts.update(evaluated=budget.skip - len(budget.known))
    ranking.counts["too large"] = budget.too_large
    seen = 0
    try:
        for problem, strategies in problems:
            for strategy in strategies:
                seen += 1
                if seen <= budget.skip:
                    continue
                ranking.add(Ranked(evaluate(problem, strategy), problem.fleet))
                if seen % 256 == 0:
                    budget.tell(seen, ranking.best)
                    if budget.spent:
                        return ranking.found(complete=False)
    except KeyboardInterrupt:
        return ranking.found(complete=False, interrupted=True)
    return ranking.found(complete=True)


def on(problem: Problem, fleet: Fleet) -> Problem:
    """The same problem on devices in another order."""
    return replace(problem, fleet=fleet, memo={})


def orders(fleet: Fleet) -> Iterator[Fleet]:
    """Orders of the kinds of nodes along the ranks, and so along a pipeline; the fleet's own first."""
    kinds: dict[tuple[int, str], list[int]] = {}
    for rank, device in enumerate(fleet.order):
        kinds.setdefault((fleet.ways.alike[device], fleet.types[rank].name), []).append(device)
    for i, order in enumerate(permutations(kinds)):
        if i == MOST_ORDERS:
            return
        yield fleet if i == 0 else fleet.reordered([device for kind in order for device in kinds[kind]])


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
