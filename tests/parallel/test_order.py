"""Backwards as their gradients arrive: nothing is lost or doubled, and only backwards that would wait change places."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.parallel.pipeline.order import as_planned, by_arrival
from grainline.parallel.pipeline.transport import Watched
from grainline.schedule import SCHEDULES, Action, Kind, add_messages, make_schedule

RECEIVED, SENT = Kind.RECV_B, Kind.SEND_B


def program(name: str, rank: int) -> list[tuple[object, Action]]:
    schedule = add_messages(make_schedule(name, 2, 4))
    return [(print, action) for action in schedule.actions[rank]]


@given(st.sampled_from([n for n in SCHEDULES if n != "partial"]), st.integers(0, 1), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=80)
def test_every_action_is_taken_once_and_others_keep_their_order(name, rank, random):
    steps = program(name, rank)
    taken = [action for _, action in by_arrival(steps, lambda _: random.random() < 0.5)]
    planned = [action for _, action in steps]
    assert sorted(map(str, taken)) == sorted(map(str, planned))
    moved = (Kind.B, Kind.I, SENT, RECEIVED)
    assert [a for a in taken if a.kind not in moved] == [a for a in planned if a.kind not in moved]
    first = next(i for i, a in enumerate(taken) if a.kind is not RECEIVED)
    assert all(a.kind is not RECEIVED for a in taken[first:])
    for i, action in enumerate(taken):
        if action.kind is SENT:
            mine = [b for b in taken[:i] if b.kind in (Kind.B, Kind.I)]
            assert (action.stage, action.microbatch) in [(b.stage, b.microbatch) for b in mine]


def test_a_backward_that_would_wait_lets_the_first_that_would_not_go_ahead():
    steps = program("gpipe", 0)
    planned = [a for _, a in as_planned(steps, lambda _: False)]
    assert planned == [a for _, a in steps]
    backwards = [a.microbatch for a in planned if a.kind is Kind.B]
    late = backwards[0]
    taken = [a for _, a in by_arrival(steps, lambda a: a.microbatch != late)]
    assert [a.microbatch for a in taken if a.kind is Kind.B] == [backwards[1], *backwards[2:], late]


def test_a_watched_message_is_done_when_it_has_come_and_passes_errors_on():
    class Slow:
        def __init__(self, error: Exception | None = None) -> None:
            self.come, self.error = threading.Event(), error

        def wait(self, timeout: timedelta) -> None:
            self.come.wait()
            if self.error is not None:
                raise self.error

    slow = Slow()
    watched = Watched(slow)
    assert not watched.is_done
    with pytest.raises(RuntimeError, match="timed out"):
        watched.wait(timedelta(seconds=0.01))
    slow.come.set()
    watched.wait(timedelta(seconds=10))
    assert watched.is_done
    broken = Slow(RuntimeError("connection closed by peer"))
    broken.come.set()
    with pytest.raises(RuntimeError, match="closed by peer"):
        Watched(broken).wait(timedelta(seconds=10))
