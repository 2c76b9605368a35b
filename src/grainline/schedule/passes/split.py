"""Splitting the backward as a choice of any schedule: I at once, and W where there is a gap."""

from __future__ import annotations

from grainline.schedule.costs import Costs, equal_costs
from grainline.schedule.members.weights import least_held, place_weights
from grainline.schedule.schedule import Schedule


def split_backward(
    schedule: Schedule, *, costs: Costs | None = None, held: int | None = None, message_seconds: float = 0.0
) -> Schedule:
    """Every B of a bare schedule as I and a W that waits for a gap, with the least makespan found.

    `held` bounds the forwards that a rank holds whose W isn't done; the default is what the rank that holds most must
    hold anyway, so that no device needs more memory than before. ZB-H1 is this, of 1F1B.
    Raises ScheduleError if `held` is too small for the order of the lists.
    """
    bound = max(least_held(schedule)) if held is None else held
    return place_weights(schedule, costs or equal_costs(), bound, message_seconds=message_seconds)
