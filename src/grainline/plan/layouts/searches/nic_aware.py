"""Holmes: groups that send much stay among devices with NICs of one type (arXiv 2312.03549, section 3).

Tensor and data parallel groups live within one kind of node, so that only the pipeline's small messages cross the slow
links between kinds; stages get layers by the speed of what they run on (`partition`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from grainline.documents import GrainlineError
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.searches.frame import Budget, Found, on, orders, rank_all
from grainline.plan.layouts.space import Pins, strategies
from grainline.plan.layouts.strategy import Strategy


def nic_aware(problem: Problem, pins: Pins, budget: Budget) -> Found:
    """Every strategy whose stages are each of one kind, in each order of the kinds.

    Raises GrainlineError where no width divides the kinds' numbers of devices, with the numbers.
    """

    def each() -> Iterator[tuple[Problem, Iterable[Strategy]]]:
        for fleet in orders(problem.fleet):
            changed = problem if fleet is problem.fleet else on(problem, fleet)
            yield changed, (s for s in strategies(changed, pins) if pure(fleet, s))

    found = rank_all(each(), budget)
    if not found.evaluated:
        counts = ", ".join(f"{len(block)} × {name}" for name, block in blocks(problem.fleet))
        raise GrainlineError(
            f"--search nic-aware: no group size divides the devices of each kind ({counts}). Leave nodes out "
            "(--without), change the batch, or search without regard to kinds (--search exhaustive)."
        )
    return found


def pure(fleet: Fleet, strategy: Strategy) -> bool:
    """Whether each pipeline rank's devices are of one kind."""
    width = strategy.width
    kinds = kinds_of(fleet)
    return all(len(set(kinds[r * width : (r + 1) * width])) == 1 for r in range(strategy.pipeline))


def kinds_of(fleet: Fleet) -> list[tuple[int, str]]:
    """Of each rank, the kind of its node and its device type."""
    return [(fleet.ways.alike[device], fleet.types[rank].name) for rank, device in enumerate(fleet.order)]


def blocks(fleet: Fleet) -> list[tuple[str, list[int]]]:
    """The kinds in order, by device type, with their ranks."""
    found: dict[tuple[int, str], list[int]] = {}
    for rank, kind in enumerate(kinds_of(fleet)):
        found.setdefault(kind, []).append(rank)
    return [(name, ranks) for (_, name), ranks in found.items()]
