"""Schedules from planned starts: the order that executes is the planner's, whatever it costs, and nothing hangs."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.schedule import Hop, Kind, Schedule, ScheduleError, add_messages, validate
from grainline.schedule.members.partial import in_unit_times, partial, straight


def drawn(seed: int, ranks: int, stages: int, microbatches: int, *, step: bool) -> tuple[Schedule, list[list[float]]]:
    """Random paths over random ranks, with random starts that never go back; with `step` many of them are equal."""
    rng = random.Random(seed)
    paths, starts = [], []
    for _ in range(microbatches):
        visited = rng.sample(range(stages), rng.randint(1, stages))
        paths.append(tuple(Hop(stage, rng.randrange(ranks)) for stage in visited))
        now, mine = 0.0, []
        for _ in range(2 * len(visited)):
            now += rng.choice((0, 0, 1)) if step else rng.random()
            mine.append(float(now))
        starts.append(mine)
    return partial(paths, starts, ranks), starts


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.booleans(), st.integers(0, 5))
def test_any_planned_starts_make_a_schedule_that_can_be_carried_out(
    seed: int, ranks: int, stages: int, microbatches: int, step: bool, lookahead: int
) -> None:
    schedule, starts = drawn(seed, ranks, stages, microbatches, step=step)
    validate(schedule)
    validate(add_messages(schedule, lookahead))
    planned = {}
    for m, path in enumerate(schedule.paths):
        for i, hop in enumerate(path):
            planned[Kind.F, hop.stage, m] = starts[m][i]
            planned[Kind.B, hop.stage, m] = starts[m][-1 - i]
    for actions in schedule.actions:
        assert all(
            planned[one.kind, one.stage, one.microbatch] <= planned[other.kind, other.stage, other.microbatch]
            for one, other in pairwise(actions)
        )


def test_two_micro_batches_that_meet_go_in_the_planned_order() -> None:
    """Micro-batch 1 skips stage 1 and is at rank 2 first, and its backward waits for the other's forward."""
    paths = [[Hop(0, 0), Hop(1, 1), Hop(2, 2)], [Hop(0, 0), Hop(2, 2)]]
    schedule = partial(paths, [[0, 2, 4, 5, 7, 9], [1, 3, 6, 8]], 3)
    assert [[str(action) for action in actions] for actions in schedule.actions] == [
        ["F0.0", "F0.1", "B0.1", "B0.0"],
        ["F1.0", "B1.0"],
        ["F2.1", "F2.0", "B2.0", "B2.1"],
    ]


@pytest.mark.parametrize(
    ("starts", "ranks", "words"),
    [
        ([[0.0, 1, 2, 3]], 2, "planned starts for 1 micro-batches, of 2"),
        ([[0.0, 1, 2, 3], [0.0, 1]], 2, "micro-batch 1 has 2 planned starts for 4 visits"),
        ([[0.0, 1, 2, 3], [0.0, 2, 1, 3]], 2, "micro-batch 1: a visit is planned to start before"),
        ([[0.0, 1, 2, 3], [0.0, float("nan"), 2, 3]], 2, "micro-batch 1: a visit is planned to start before"),
        ([[0.0, 1, 2, 3], [0.0, 1, 2, 3]], 1, "micro-batch 0 visits stage 1 on rank 1: of 1 ranks"),
    ],
)
def test_starts_that_make_no_order_are_refused(starts: list[list[float]], ranks: int, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        partial([(Hop(0, 0), Hop(1, 1))] * 2, starts, ranks)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
def test_straight_paths_skip_nothing_and_stay_with_those_that_hold_a_stage(
    seed: int, ranks: int, stages: int, microbatches: int
) -> None:
    some, _ = drawn(seed, ranks, stages, microbatches, step=False)
    visited = sorted({hop.stage for path in some.paths for hop in path})
    renamed = [tuple(Hop(visited.index(hop.stage), hop.rank) for hop in path) for path in some.paths]
    schedule = partial(renamed, in_unit_times(renamed), ranks)
    whole = straight(schedule)
    validate(whole)
    for path in whole.paths:
        assert [hop.stage for hop in path] == list(range(len(visited)))
        assert all(hop.rank in schedule.holders(hop.stage) for hop in path)
