"""Recomputation as a choice of a schedule: keep a stage's input alone, and run it forward again before its backward."""

from __future__ import annotations

from typing import Literal

from grainline.schedule.actions import Action, Kind
from grainline.schedule.schedule import Schedule

Recompute = Literal["never", "always", "except_last"]


def with_recompute(schedule: Schedule, how: Recompute = "except_last") -> Schedule:
    """R before each B or I. R needs no gradient, so it goes on while that is still on its way (arXiv 1811.06965, 2.3).

    "except_last" leaves out a backward that follows its own forward at once: there nothing would be saved. In GPipe
    that is the last micro-batch on every rank, in 1F1B every micro-batch on the last.
    """
    if how == "never":
        return schedule
    return schedule.with_actions([_of_rank(actions, how) for actions in schedule.actions])


def _of_rank(actions: tuple[Action, ...], how: Recompute) -> list[Action]:
    found: list[Action] = []
    before: Action | None = None  # the F, B or I that came last
    for action in actions:
        if action.kind in (Kind.B, Kind.I):
            own = before == Action(Kind.F, action.stage, action.microbatch)
            if how == "always" or not own:
                found.append(Action(Kind.R, action.stage, action.microbatch))
        if action.kind in (Kind.F, Kind.B, Kind.I):
            before = action
        found.append(action)
    return found
