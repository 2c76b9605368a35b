"""tasks_of: columns against plain code, on every schedule and on broken ones."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schedule.plain_dependencies import plain_tasks_of

from grainline.schedule import SCHEDULES, Action, Kind, Schedule, ScheduleError, add_messages, gpipe, make_schedule
from grainline.schedule.actions import TILE_WORK
from grainline.schedule.dependencies import Place, Stream, tasks_of
from grainline.schedule.members.one_f_one_b import one_f_one_b
from grainline.schedule.passes.offload import with_offload
from grainline.schedule.passes.recompute import with_recompute
from grainline.schedule.passes.update import add_update
from grainline.schedule.passes.vocabulary import add_vocabulary_passes
from grainline.schedule.schedule import Hop


def says_the_same(schedule: Schedule) -> bool:
    """As the plain code: the same tasks and needs, or both refuse."""
    try:
        tasks, needs = plain_tasks_of(schedule)
    except ScheduleError:
        with pytest.raises(ScheduleError):
            tasks_of(schedule)
        return False
    found = tasks_of(schedule)
    assert found.tasks == tasks
    assert found.needs == needs
    return True


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sent", [False, True])
def test_every_schedule(name: str, sent: bool) -> None:
    schedule = make_schedule(name, 3, 6)
    assert says_the_same(add_messages(schedule) if sent else schedule)


def rich() -> list[Schedule]:
    """Small schedules with every kind of action."""
    passes = [add_vocabulary_passes(one_f_one_b(3, 4), algorithm) for algorithm in ("vocab1", "vocab2")]
    skipping = Schedule(
        "skipping",
        ((Hop(0, 0), Hop(2, 2)), (Hop(1, 1), Hop(0, 0), Hop(2, 2))),
        (
            (Action(Kind.F, 0, 0), Action(Kind.F, 0, 1), Action(Kind.B, 0, 1), Action(Kind.B, 0, 0)),
            (Action(Kind.F, 1, 1), Action(Kind.I, 1, 1), Action(Kind.W, 1, 1)),
            (Action(Kind.F, 2, 0), Action(Kind.B, 2, 0), Action(Kind.F, 2, 1), Action(Kind.B, 2, 1)),
        ),
    )
    return [
        *(add_update(add_messages(one), [0, 2], tied={0: 2}) for one in passes),
        add_messages(with_offload(with_recompute(gpipe(3, 4), "always"))),
        add_messages(make_schedule("zb-v", 2, 4)),
        add_messages(skipping),
        skipping,
    ]


@pytest.mark.parametrize("schedule", rich(), ids=lambda schedule: schedule.name)
def test_every_kind_of_action(schedule: Schedule) -> None:
    assert says_the_same(schedule)


def test_that_covers_all_kinds() -> None:
    assert {a.kind for schedule in rich() for actions in schedule.actions for a in actions} == set(Kind) - TILE_WORK


def broken(schedule: Schedule, choose: random.Random) -> Schedule:
    """One action dropped, doubled, moved to another place or rank, or with one number changed."""
    lists = [list(actions) for actions in schedule.actions]
    rank = choose.choice([r for r, actions in enumerate(lists) if actions])
    at = choose.randrange(len(lists[rank]))
    action = lists[rank].pop(at)
    match choose.randrange(4):
        case 1:
            lists[rank][at:at] = [action, action]
        case 2:
            to = choose.choice(lists)
            to.insert(choose.randint(0, len(to)), action)
        case 3:
            fields = [action.stage, action.microbatch, action.peer, action.peer_stage]
            fields[choose.randrange(4)] += choose.choice([-1, 1])
            lists[rank].insert(at, Action(action.kind, *fields))
    return schedule.with_actions(lists)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(rich()), st.integers(0, 2**32))
def test_broken_schedules_are_refused_by_both_or_understood_alike(schedule: Schedule, seed: int) -> None:
    says_the_same(broken(schedule, random.Random(seed)))


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[Action(Kind.F, 0, 0), Action(Kind.F, 0, 0)]], "rank 0 has F0.0 twice"),
        ([[Action(Kind.B, 0, 0)]], "rank 0: B0.0 needs F0.0 on rank 0: in no list there"),
        ([[Action(Kind.F, 0, 0), Action(Kind.W, 0, 0)]], "rank 0: W0.0 needs I0.0 on rank 0"),
        ([[Action(Kind.F, 0, 3)]], "rank 0: there is no micro-batch 3 of 1"),
        ([[Action(Kind.F, 0, -1)]], "rank 0: there is no micro-batch -1 of 1"),
        ([[Action(Kind.F, 0, 0), Action(Kind.C0, -1, 3)]], "rank 0: there is no micro-batch 3 of 1"),
        ([[Action(Kind.F, 0, -2)]], "microbatch=-2, peer=-1, peer_stage=-1) has a number below -1"),
        ([[Action(Kind.F, 1, 0)]], "rank 0: micro-batch 0 doesn't visit stage 1 here"),
        ([[], [Action(Kind.F, 0, 0)]], "rank 1: micro-batch 0 doesn't visit stage 0 here"),
        ([[Action(Kind.SEND_F, 0, 0, 7, 1)]], "rank 0: SEND_F0.0→7 has no peer among the 1 ranks"),
        ([[Action(Kind.SEND_F, 0, 0, 1, 1)], []], "rank 0: SEND_F0.0→1 meets no receive on rank 1"),
        ([[], [Action(Kind.RECV_F, 1, 0, 0, 0)]], "rank 1: RECV_F1.0←0 meets no send on rank 0"),
        ([[Action(Kind.SEND_F, 0, 0, 1, 1)] * 2, []], "rank 0 has SEND_F0.0→1 twice"),
        ([[Action(Kind.C1, -1, 0)]], "rank 0: C1.0 needs S of micro-batch 0: in no list"),
        ([[Action(Kind.C0, -1, 0)]], "rank 0: C0.0 needs F0.0 on rank 0: in no list there"),
    ],
)
def test_what_is_wrong_is_said(lists: list[list[Action]], message: str) -> None:
    with pytest.raises(ScheduleError, match=re.escape(message)):
        tasks_of(Schedule("x", ((Hop(0, 0),),), tuple(map(tuple, lists))))


def test_tasks_have_places_streams_and_names() -> None:
    tasks = tasks_of(add_messages(gpipe(2, 1)))
    message = next(i for i, task in enumerate(tasks.tasks) if task.action.kind is Kind.SEND_F)
    assert tasks.tasks[message].places == (Place(0, 2), Place(1, 0))  # after RECV_B and F
    assert tasks.tasks[message].stream == Stream("forward", 0, 1)
    assert str(tasks.tasks[message].stream) == "forward 0→1"
    assert tasks.name(message) == "rank 0: SEND_F0.0→1"
    assert tasks.needs[message] == (0,)
    assert len(tasks_of(Schedule("nothing", (), ((),)))) == 0
