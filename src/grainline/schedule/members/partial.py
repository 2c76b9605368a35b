"""Partial pipelines: a schedule from the times at which a planner has each micro-batch visit each hop of its path.

Paths may leave out stages, change their order and choose among the ranks that hold a stage (arXiv 2502.19913). Each
rank carries out its visits in the order of their planned starts, and nothing else of the times is kept: where real
costs differ, ranks wait, and the order stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from grainline.schedule.actions import Action, Kind
from grainline.schedule.schedule import Hop, Path, Schedule, ScheduleError

Starts = Sequence[float]
"""Of a micro-batch: seconds at which each forward along its path starts, then each backward from the last hop to the
first."""

LOOKAHEAD = 4
"""Compute actions that receives are posted ahead: over slow links a message mustn't wait until its receiver comes round
to it."""


def partial(paths: Sequence[Path], starts: Sequence[Starts], ranks: int, name: str = "partial") -> Schedule:
    """Bare compute in the order of the planned starts; `add_messages` makes it fit to run.

    Every visit must start no earlier than the one before it on its micro-batch's way, forwards and then backwards; then
    no rank waits for ever. Visits that start at one time are in the order of their ways, then of micro-batches. Raises
    ScheduleError where times go back, or there aren't as many as visits.
    """
    if len(starts) != len(paths):
        raise ScheduleError(f"planned starts for {len(starts)} micro-batches, of {len(paths)}")
    visits: list[list[tuple[float, int, int, Action]]] = [[] for _ in range(ranks)]
    for m, (path, mine) in enumerate(zip(paths, starts, strict=True)):
        if len(mine) != 2 * len(path):
            raise ScheduleError(f"micro-batch {m} has {len(mine)} planned starts for {2 * len(path)} visits")
        if any(not one <= other for one, other in pairwise(mine)):
            raise ScheduleError(f"micro-batch {m}: a visit is planned to start before the one that it follows: {mine}")
        way = [(Kind.F, hop) for hop in path] + [(Kind.B, hop) for hop in reversed(path)]
        for place, ((kind, hop), start) in enumerate(zip(way, mine, strict=True)):
            if not 0 <= hop.rank < ranks:
                raise ScheduleError(f"micro-batch {m} visits stage {hop.stage} on rank {hop.rank}: of {ranks} ranks")
            visits[hop.rank].append((start, place, m, Action(kind, hop.stage, m)))
    return Schedule(name, tuple(map(tuple, paths)), tuple(tuple(a for *_, a in sorted(mine)) for mine in visits))


def in_unit_times(paths: Sequence[Path]) -> list[list[float]]:
    """Starts for want of planned ones: as if every visit took one unit, and micro-batches set out one after another."""
    return [[float(m + place) for place in range(2 * len(path))] for m, path in enumerate(paths)]


def straight(schedule: Schedule) -> Schedule:
    """Bare compute that skips nothing: each micro-batch through all stages in order, at the ranks of each in turn."""
    holders = [schedule.holders(stage) for stage in range(schedule.stages)]
    paths = [
        tuple(Hop(stage, of[m % len(of)]) for stage, of in enumerate(holders)) for m in range(schedule.microbatches)
    ]
    return partial(paths, in_unit_times(paths), schedule.ranks, f"{schedule.name}, straight")
