"""The end of a step: gradients reduced over all that hold a stage or are tied to it, then the optimiser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from grainline.schedule.actions import Action, Kind
from grainline.schedule.schedule import Schedule

NO_TIES: Mapping[int, int] = {}


def add_update(schedule: Schedule, reduce_stages: Iterable[int] = (), *, tied: Mapping[int, int] = NO_TIES) -> Schedule:
    """UPDATE at the end of every list, and REDUCE of `reduce_stages` as soon as a rank has their last gradient.

    All ranks that hold a stage take part in its REDUCE. Where the stage is tied to another (embedding and head that
    share weights: `tied[0] = last`), which is then the action's `peer_stage`, those that hold the other do so too. The
    order is the same on all ranks: last stages first, as backwards end in that order. A tie within one rank, as in a V,
    needs no REDUCE.
    """
    apart = {stage for stage, other in tied.items() if len({*schedule.holders(stage), *schedule.holders(other)}) > 1}
    reductions = [
        Action(Kind.REDUCE, stage, peer_stage=tied.get(stage, -1))
        for stage in sorted({*reduce_stages, *apart}, key=lambda stage: -min(stage, tied.get(stage, stage)))
    ]
    lists = []
    for rank, actions in enumerate(schedule.actions):
        after: dict[int, list[Action]] = {}
        place = 0
        for reduce in reductions:
            stages = {reduce.stage, reduce.peer_stage}
            if not stages & set(schedule.stages_of(rank)):
                continue
            gradients = (i for i, a in enumerate(actions) if a.kind in (Kind.B, Kind.I, Kind.W) and a.stage in stages)
            place = max(place, max(gradients, default=0))
            after.setdefault(place, []).append(reduce)
        found = [a for i, action in enumerate(actions) for a in (action, *after.get(i, ()))]
        lists.append([*found, Action(Kind.UPDATE)])
    return schedule.with_actions(lists)
