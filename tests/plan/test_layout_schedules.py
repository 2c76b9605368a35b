"""The closed forms of schedules against the same schedules played event by event, over unlike stages and messages."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.plan.layouts.memory import in_flight
from grainline.plan.layouts.passes import bubble, rounds
from grainline.plan.layouts.strategy import Strategy
from grainline.schedule import Costs, Kind, Network, StageCost, add_messages, lower, make_schedule, simulate

Each = list[list[float]]  # [ranks][chunks]


def played(schedule: str, m: int, forward: Each, backward: Each, hop: float, *, overlaps: bool) -> float:
    """Seconds of a step; weights' gradients are half of the backward."""
    p, v = len(forward), len(forward[0])

    def cost(stage: int, rank: int) -> StageCost:
        f, b = forward[rank][stage // p], backward[rank][stage // p]
        return StageCost({Kind.F: f, Kind.B: b, Kind.I: b / 2, Kind.W: b / 2}, output_bytes=1.0)

    actions = add_messages(make_schedule(schedule, p, m, chunks=v), lookahead=int(overlaps))
    network = Network.uniform(p, 0.0, 1 / hop) if hop else Network.ideal(p)
    return simulate(lower(actions, Costs(cost), network)).makespan


def closed(schedule: str, m: int, forward: Each, backward: Each, hop: float, *, overlaps: bool) -> float:
    """The same by formula."""
    p, v = len(forward), len(forward[0])
    f, b = np.array(forward).sum(1), np.array(backward).sum(1)
    trip = 2 * hop * ((p - 1) * v + v - 1)
    return float(m * (f + b).max() + bubble(schedule, v, f, b, b / 2, m) + rounds(schedule, p, m, overlaps) * trip)


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize(
    ("schedule", "within"), [("gpipe", 0.06), ("1f1b", 0.09), ("interleaved", 0.14), ("zb-h1", 0.13)]
)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_closed_forms_are_near_what_is_played(
    schedule: str, within: float, overlaps: bool, data: st.DataObject
) -> None:
    """Stages differ by up to 30 % either way, and a message takes up to a fifth of a forward."""
    p = data.draw(st.integers(2, 8))
    v = data.draw(st.integers(2, 4)) if schedule == "interleaved" else 1
    m = p * data.draw(st.integers(1, 5)) + (0 if v > 1 else data.draw(st.integers(0, p - 1)))
    part = st.floats(0.7, 1.3)
    forward = [[data.draw(part) / v for _ in range(v)] for _ in range(p)]
    backward = [[2 * f * data.draw(st.floats(0.9, 1.1)) for f in row] for row in forward]
    hop = data.draw(st.sampled_from([0.0, 0.05, 0.2])) / v
    real = played(schedule, m, forward, backward, hop, overlaps=overlaps)
    assert closed(schedule, m, forward, backward, hop, overlaps=overlaps) == pytest.approx(real, rel=within)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zb-h1"])
def test_equal_stages_without_messages_are_as_played(schedule: str) -> None:
    """To 2 %: what is left is the end of the warm-up, where forwards and backwards of unlike length meet."""
    for p in (2, 4, 7):
        for m in (p, 3 * p):
            v = 2 if schedule == "interleaved" else 1
            forward, backward = [[1.0] * v] * p, [[2.0] * v] * p
            real = played(schedule, m, forward, backward, 0.0, overlaps=True)
            assert closed(schedule, m, forward, backward, 0.0, overlaps=True) == pytest.approx(real, rel=0.03)


@pytest.mark.parametrize(("schedule", "v"), [("gpipe", 1), ("1f1b", 1), ("interleaved", 3)])
def test_in_flight_is_what_the_schedule_holds(schedule: str, v: int) -> None:
    """Of all stages of a rank together, in full ranks' worth; against the lists of actions."""
    for p, m in ((2, 2), (4, 8), (4, 16), (6, 6)):
        strategy = Strategy(pipeline=p, chunks=v, schedule=schedule)
        actions = make_schedule(schedule, p, m, chunks=v)
        for rank in range(p):
            steps = [{Kind.F: 1, Kind.B: -1}[a.kind] for a in actions.actions[rank]]
            most = max(accumulate(steps)) / v
            assert in_flight(strategy, np.arange(p), m)[rank] == pytest.approx(most)
