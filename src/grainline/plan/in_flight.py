"""How much of each stage a schedule holds at once: micro-batches kept whole, as their input alone, or queued for W."""

from __future__ import annotations

from dataclasses import dataclass

from grainline.schedule.actions import Action, Kind
from grainline.schedule.schedule import Schedule

WHOLE, INPUT, QUEUED = 0, 1, 2


@dataclass(frozen=True)
class InFlight:
    """The most of each at any time, which needn't be the same time for all three."""

    whole: int
    inputs: int
    queued: int


def in_flight(schedule: Schedule, rank: int, stage: int) -> InFlight:
    """Of one stage on one rank, by the order of its list; memory as `schedule.lower` counts it."""
    actions = [a for a in schedule.actions[rank] if a.stage == stage]
    again = {a.microbatch for a in actions if a.kind is Kind.R}
    now, most = [0, 0, 0], [0, 0, 0]
    computed_again: set[int] = set()
    for action in actions:
        form = INPUT if action.microbatch in again and action.microbatch not in computed_again else WHOLE
        for which, change in _changes(action, form):
            now[which] += change
        if action.kind is Kind.R:
            computed_again.add(action.microbatch)
        most = [max(a, b) for a, b in zip(most, now, strict=True)]
    return InFlight(*most)


def _changes(action: Action, form: int) -> list[tuple[int, int]]:
    match action.kind:
        case Kind.F | Kind.FETCH:
            return [(form, 1)]
        case Kind.OFFLOAD:
            return [(form, -1)]
        case Kind.R:
            return [(INPUT, -1), (WHOLE, 1)]
        case Kind.B:
            return [(WHOLE, -1)]
        case Kind.I:
            return [(WHOLE, -1), (QUEUED, 1)]
        case Kind.W:
            return [(QUEUED, -1)]
    return []
