"""Schedules of two stages per rank in a V, made from a building block that repeats for every micro-batch.

Rank r holds stages r and 2P − 1 − r, so that each rank's long wait for a gradient (stage r) is paired with a short one.
A block says when each of a micro-batch's four passes on rank r begins, in units of an F, which I and W take too; blocks
follow each other every six units, as two stages have six passes (arXiv 2405.15362, section 3). Then the lists are
squeezed: played with real costs, gaps filled, never with more held than the block repeated without end holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from grainline.schedule.actions import Action, Kind
from grainline.schedule.costs import Costs, equal_costs
from grainline.schedule.members.placement import v_shape
from grainline.schedule.members.weights import place_weights
from grainline.schedule.schedule import Schedule, straight_paths

PERIOD = 6
Block = Callable[[int, int], tuple[int, int, int, int]]
"""Ranks, rank → when F of its first stage begins, F of its second, I of its second, I of its first."""


def _v_half_block(ranks: int, rank: int) -> tuple[int, int, int, int]:
    """Two units and one; the gap keeps passes of even pipelines out of each other's slots."""
    p, r, gap = ranks, rank, 3 if ranks % 2 == 0 else 0
    return 2 * r, 3 * p - r - 2, 3 * p + gap + 2 * r - 1, 6 * p + gap - r - 2


def _v_min_block(ranks: int, rank: int) -> tuple[int, int, int, int]:
    """One unit everywhere, straight down and up the V."""
    p, r, gap = ranks, rank, 2 if ranks % 3 == 0 else 0
    return r, 2 * p - r - 1, 2 * p + gap + r, 4 * p + gap - r - 1


def zb_v(ranks: int, microbatches: int, costs: Costs | None = None, *, message_seconds: float = 0.0) -> Schedule:
    """Bare compute of ZB-V: 1F1B's memory (2P half-stages held on every rank), no bubble with F, I and W alike."""
    order = _zb_v_order(ranks, microbatches)
    return place_weights(order, costs or equal_costs(), 2 * ranks, message_seconds=message_seconds, name="zb-v")


def v_half(ranks: int, microbatches: int, costs: Costs | None = None, *, message_seconds: float = 0.0) -> Schedule:
    """Bare compute of V-Half: half of 1F1B's memory (P + 2 half-stages if P is even), at most half of its bubble."""
    return _squeezed("v-half", _v_half_block, ranks, microbatches, costs, message_seconds)


def v_min(ranks: int, microbatches: int, costs: Costs | None = None, *, message_seconds: float = 0.0) -> Schedule:
    """Bare compute of V-Min: towards a third of 1F1B's memory with more ranks, two thirds of its bubble."""
    return _squeezed("v-min", _v_min_block, ranks, microbatches, costs, message_seconds)


def _squeezed(
    name: str, block: Block, ranks: int, microbatches: int, costs: Costs | None, message_seconds: float
) -> Schedule:
    order = _repeated(block, ranks, microbatches)
    bound = max(held_by(*block(ranks, rank)) for rank in range(ranks))
    return place_weights(order, costs or equal_costs(), bound, message_seconds=message_seconds, name=name)


def held_by(f_first: int, f_second: int, i_second: int, i_first: int) -> int:
    """The most half-stages that a rank holds, from F's beginning to W's end, where its block repeats without end.

    W has the two slots of six that are left, each soon after its I: the one of the two ways that holds less.
    """
    left = sorted(set(range(PERIOD)) - {begin % PERIOD for begin in (f_first, f_second, i_second, i_first)})
    peaks = []
    for slots in (left, left[::-1]):
        w_second, w_first = (
            i + 1 + (slot - i - 1) % PERIOD for i, slot in zip((i_second, i_first), slots, strict=True)
        )
        lives = ((f_first, w_first + 1), (f_second, w_second + 1))
        peaks.append(
            max(sum((t - begin) // PERIOD - (t - end) // PERIOD for begin, end in lives) for t in range(PERIOD))
        )
    return min(peaks)


def _zb_v_order(ranks: int, microbatches: int) -> Schedule:
    """F and B of ZB-V as the paper draws it (arXiv 2401.10241, section 6)."""
    full = max(microbatches, 2 * ranks - 1)  # fewer micro-batches are the same with some left out
    lists = []
    for rank in range(ranks):
        down, up = rank, 2 * ranks - 1 - rank
        behind = ranks - rank
        f_down, f_up = deque(_all(Kind.F, down, full)), deque(_all(Kind.F, up, full))
        b_down, b_up = deque(_all(Kind.B, down, full)), deque(_all(Kind.B, up, full))
        order = [f_down.popleft() for _ in range(2 * behind - 1)]
        for _ in range(rank):
            order += [f_up.popleft(), f_down.popleft()]
        for _ in range(behind):
            order += [f_up.popleft(), b_up.popleft()]
        while f_up:
            order += [f_down.popleft()] if f_down else []
            order += [b_down.popleft(), f_up.popleft(), b_up.popleft()]
        while b_up:
            order += [b_down.popleft(), b_up.popleft()]
        lists.append(tuple(a for a in (*order, *b_down) if a.microbatch < microbatches))
    return Schedule("order", straight_paths(v_shape(ranks), microbatches), tuple(lists))


def _all(kind: Kind, stage: int, microbatches: int) -> list[Action]:
    return [Action(kind, stage, m) for m in range(microbatches)]


def _repeated(block: Block, ranks: int, microbatches: int) -> Schedule:
    """F and B of all micro-batches in the order of their times; W has the two slots of six that are left."""
    lists = []
    for rank in range(ranks):
        first, second = rank, 2 * ranks - 1 - rank
        passes = ((Kind.F, first), (Kind.F, second), (Kind.B, second), (Kind.B, first))
        timed = [
            (begin + PERIOD * m, Action(kind, stage, m))
            for begin, (kind, stage) in zip(block(ranks, rank), passes, strict=True)
            for m in range(microbatches)
        ]
        lists.append(tuple(action for _, action in sorted(timed)))
    return Schedule("block", straight_paths(v_shape(ranks), microbatches), tuple(lists))
