"""Recomputation, offloading and the update as choices of any schedule."""

from __future__ import annotations

import pytest

from grainline.schedule import (
    Action,
    Kind,
    Network,
    Schedule,
    add_messages,
    add_update,
    equal_costs,
    lower,
    make_schedule,
    one_f_one_b,
    simulate,
    with_offload,
    with_recompute,
)


def again(schedule: Schedule, rank: int) -> list[int]:
    """Micro-batches that a rank runs forward twice."""
    return sorted(a.microbatch for a in schedule.actions[rank] if a.kind is Kind.R)


def test_recomputing_all_but_what_follows_at_once() -> None:
    gpipe, plain = make_schedule("gpipe", 3, 4), make_schedule("1f1b", 3, 4)
    for rank in range(3):
        assert again(with_recompute(gpipe, "always"), rank) == [0, 1, 2, 3]
        assert again(with_recompute(gpipe, "except_last"), rank) == [0, 1, 2]
        assert again(with_recompute(plain, "except_last"), rank) == ([0, 1, 2, 3] if rank < 2 else [])
    assert with_recompute(plain, "never") is plain


def test_a_recomputed_forward_overlaps_the_gradients_way() -> None:
    """The gradient takes as long as R: two ranks, one micro-batch, by hand."""
    schedule = add_messages(with_recompute(one_f_one_b(2, 1), "always"))
    timeline = simulate(lower(schedule, equal_costs(1, 2), Network.uniform(2, 1.0, 1.0)))
    assert timeline.makespan == pytest.approx(1 + 1 + (1 + 1 + 2) + 1 + 2)  # F, message, F R B, message beside R, B


def test_offloaded_activations_come_back_in_time() -> None:
    schedule = with_offload(make_schedule("gpipe", 2, 4), lookahead=1, at_least=2)
    expected = "F{0}.0 OFFLOAD{0}.0 F{0}.1 OFFLOAD{0}.1 F{0}.2 OFFLOAD{0}.2 F{0}.3"
    expected += " FETCH{0}.2 B{0}.3 FETCH{0}.1 B{0}.2 FETCH{0}.0 B{0}.1 B{0}.0"
    for rank, actions in enumerate(schedule.actions):
        assert " ".join(map(str, actions)) == expected.format(rank)


def test_nothing_is_put_away_for_a_moment() -> None:
    schedule = with_offload(make_schedule("1f1b", 3, 6))
    assert not any(a.kind is Kind.OFFLOAD for a in schedule.actions[2])  # the last rank's backward follows at once
    with pytest.raises(ValueError, match="look-ahead of 3: must be 0 to 2"):
        with_offload(schedule, lookahead=3)


def test_reductions_come_in_one_order_as_soon_as_may_be() -> None:
    schedule = add_update(make_schedule("interleaved", 2, 4, chunks=2), range(4), tied={0: 3})
    for rank, actions in enumerate(schedule.actions):
        assert actions[-1] == Action(Kind.UPDATE)
        reductions = [a for a in actions if a.kind is Kind.REDUCE]
        assert [a.stage for a in reductions] == ([2, 0] if rank == 0 else [3, 1, 0])
        for reduce in reductions[:-1]:
            before = actions[actions.index(reduce) - 1]
            assert (before.kind, before.stage) == (Kind.B, reduce.stage)
