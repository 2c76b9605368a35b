"""Offloading as a choice of a schedule: what a forward keeps waits in host memory for its backward."""

from __future__ import annotations

from grainline.schedule.actions import COMPUTE, Action, Kind
from grainline.schedule.schedule import Schedule


def with_offload(schedule: Schedule, *, lookahead: int = 1, at_least: int = 2) -> Schedule:
    """OFFLOAD after each F, and FETCH `lookahead` compute actions before its B, I or R wants it.

    Both run beside compute, on the copy engine. A backward that comes with fewer than `at_least` compute actions after
    its forward keeps what it has: the copies would take longer than they save. Raises ValueError if that is fewer than
    `lookahead`, as something would be fetched before it has been put away.
    """
    if not 0 <= lookahead <= at_least:
        raise ValueError(f"a look-ahead of {lookahead}: must be 0 to {at_least}, the least that is away")
    return schedule.with_actions([_of_rank(actions, lookahead, at_least) for actions in schedule.actions])


def _of_rank(actions: tuple[Action, ...], lookahead: int, at_least: int) -> list[Action]:
    compute = [i for i, action in enumerate(actions) if action.kind in COMPUTE]
    forward: dict[tuple[int, int], int] = {}  # stage, micro-batch → place among the compute
    back: set[tuple[int, int]] = set()
    after: dict[int, list[Action]] = {}
    before: dict[int, list[Action]] = {}
    for place, i in enumerate(compute):
        action = actions[i]
        hop = action.stage, action.microbatch
        if action.kind is Kind.F:
            forward[hop] = place
        elif action.kind in (Kind.R, Kind.B, Kind.I) and hop not in back:
            back.add(hop)
            if hop in forward and place - forward[hop] - 1 >= at_least:
                after.setdefault(compute[forward[hop]], []).append(Action(Kind.OFFLOAD, *hop))
                before.setdefault(compute[place - lookahead], []).append(Action(Kind.FETCH, *hop))
    return [a for i, action in enumerate(actions) for a in (*before.get(i, ()), action, *after.get(i, ()))]
