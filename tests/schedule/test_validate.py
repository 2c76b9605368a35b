"""The validator against a brute-force executor: what hangs or computes wrongly is refused, and little else."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.schedule.executor import Lists, World, runs_rightly

from grainline.schedule import (
    SCHEDULES,
    Action,
    Hop,
    Kind,
    Schedule,
    ScheduleError,
    add_messages,
    add_update,
    make_schedule,
    peak_in_flight,
    split_backward,
    validate,
    with_offload,
    with_recompute,
)
from grainline.schedule.passes.vocabulary import add_vocabulary_passes
from grainline.schedule.schedule import straight_paths

STRICTER = "twice"
"""The one rule that is stricter than need be: nothing is done twice, even where that would do no harm."""


def tied(schedule: Schedule) -> Schedule:
    """The first stage tied to the last, and every stage reduced that several ranks hold.

    Lists don't tell whether a stage of one rank is reduced over ranks of other pipelines.
    """
    shared = [stage for stage in range(schedule.stages) if len(schedule.holders(stage)) > 1]
    return add_update(schedule, shared, tied={0: schedule.stages - 1} if schedule.ranks > 1 else {})


PASSES: dict[str, Callable[[Schedule], Schedule]] = {
    "bare": lambda schedule: schedule,
    "recompute": lambda schedule: with_recompute(schedule, "always"),
    "offload": with_offload,
    "offload and recompute": lambda schedule: with_recompute(with_offload(schedule, lookahead=2)),
    "update": tied,
    "vocab1": lambda schedule: add_vocabulary_passes(schedule, "vocab1"),
    "vocab2": lambda schedule: add_update(add_vocabulary_passes(schedule, "vocab2")),
}


def two_holders() -> Schedule:
    """Four micro-batches; the second of three stages is on rank 1 or 2 in turn, the third is left out once."""
    paths = tuple((Hop(0, 0), Hop(1, 1 + m % 2), *((Hop(2, 0),) if m else ())) for m in range(4))
    lists: list[list[Action]] = [[], [], []]
    for kind in (Kind.F, Kind.B):
        for m, path in enumerate(paths):
            for stage, rank in path if kind is Kind.F else reversed(path):
                lists[rank].append(Action(kind, stage, m))
    return Schedule("two holders", paths, tuple(map(tuple, lists)))


def reordered() -> Schedule:
    """Two micro-batches through three stages on three ranks, the second with the last two swapped."""
    paths = ((Hop(0, 0), Hop(1, 1), Hop(2, 2)), (Hop(0, 0), Hop(2, 2), Hop(1, 1)))
    f, b = Kind.F, Kind.B
    lists = (
        (Action(f, 0, 0), Action(f, 0, 1), Action(b, 0, 0), Action(b, 0, 1)),
        (Action(f, 1, 0), Action(b, 1, 0), Action(f, 1, 1), Action(b, 1, 1)),
        (Action(f, 2, 0), Action(b, 2, 0), Action(f, 2, 1), Action(b, 2, 1)),
    )
    return Schedule("reordered", paths, lists)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any schedule of the table with any pass, or one of odd paths, with messages."""
    odd = draw(st.sampled_from([None, None, None, None, two_holders, reordered]))
    if odd is not None:
        made = odd()
        made = draw(st.sampled_from([made, tied(made), split_backward(made), with_offload(made)]))
    else:
        name = draw(st.sampled_from(sorted(SCHEDULES)))
        made_of = draw(st.sampled_from(sorted(PASSES)))
        # What one rank does alone and once in a step, no one can miss: an update, or vocab1's C2.
        ranks = draw(st.integers(2 if made_of in ("update", "vocab1", "vocab2") else 1, 4))
        chunks = draw(st.sampled_from([1, 2, 3]))
        fewest, most = SCHEDULES[name].chunks
        chunks = max(fewest, min(chunks, most or chunks))
        microbatches = draw(st.integers(1, 5))
        if SCHEDULES[name].refuses(ranks, microbatches, chunks):
            microbatches = 2 * ranks
        made = PASSES[made_of](make_schedule(name, ranks, microbatches, chunks=chunks))
    return add_messages(made, draw(st.integers(0, 3)))


def mutate(schedule: Schedule, how: str, chance: random.Random) -> Lists:
    """The lists with one action dropped, doubled, or swapped with another of its rank."""
    lists = [list(actions) for actions in schedule.actions]
    actions = lists[chance.randrange(len(lists))]
    i, j = chance.randrange(len(actions)), chance.randrange(len(actions))
    if how == "drop":
        del actions[i]
    elif how == "double":
        actions.insert(j, actions[i])
    elif how == "swap next":
        j = min(i + 1, len(actions) - 1)
        actions[i], actions[j] = actions[j], actions[i]
    else:
        actions[i], actions[j] = actions[j], actions[i]
    return lists


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedules())
def test_valid_schedules_run_rightly(schedule: Schedule) -> None:
    validate(schedule)
    assert runs_rightly(World(schedule), schedule.actions)


@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedules(), st.sampled_from(["drop", "double", "swap", "swap next"]), st.randoms(use_true_random=False))
def test_mutated_schedules_that_hang_or_compute_wrongly_are_refused(
    schedule: Schedule, how: str, chance: random.Random
) -> None:
    lists = mutate(schedule, how, chance)
    assume([*map(tuple, lists)] != [*schedule.actions])
    judge(schedule, lists)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_mutation_of_a_small_schedule_is_judged_rightly(name: str) -> None:
    chunks = SCHEDULES[name].usual_chunks
    schedule = add_messages(tied(make_schedule(name, 2, 4, chunks=chunks)))
    for rank, actions in enumerate(schedule.actions):
        for i in range(len(actions)):
            following = min(i + 1, len(actions) - 1)
            for mutated in (
                [*actions[:i], *actions[i + 1 :]],
                [*actions[: i + 1], *actions[i:]],
                [*actions[:i], actions[following], actions[i], *actions[following + 1 :]],
            ):
                if tuple(mutated) != actions:
                    judge(schedule, [*schedule.actions[:rank], mutated, *schedule.actions[rank + 1 :]])


def judge(schedule: Schedule, lists: Lists) -> None:
    """What runs wrongly must be refused; what is refused must run wrongly, or break a rule that says so."""
    error = ""
    try:
        validate(schedule.with_actions(lists))
    except ScheduleError as refusal:
        error = str(refusal)
    if runs_rightly(World(schedule), lists):
        assert not error or STRICTER in error, f"refused for nothing: {error}"
    else:
        assert error, "accepted, and runs wrongly"


def refused(schedule: Schedule, *words: str, **how: int) -> None:
    with pytest.raises(ScheduleError) as caught:
        validate(schedule, **how)
    for word in words:
        assert word in str(caught.value)


def test_errors_name_rank_and_action() -> None:
    schedule = add_messages(make_schedule("1f1b", 2, 2))
    first, second = (list(actions) for actions in schedule.actions)

    def with_lists(one: list[Action], other: list[Action]) -> Schedule:
        return schedule.with_actions([one, other])

    refused(with_lists([*first, first[0]], second), "rank 0 has F0.0 twice")
    refused(with_lists([a for a in first if a != Action(Kind.F, 0, 1)], second), "rank 0", "micro-batch 1", "no F")
    refused(with_lists([a for a in first if a != Action(Kind.B, 0, 1)], second), "rank 0", "no backward")
    sends = [a for a in first if a.kind is Kind.SEND_F]
    refused(with_lists([a for a in first if a != sends[0]], second), "rank 0 lacks SEND_F0.0→1")
    swapped = [sends[1] if a == sends[0] else sends[0] if a == sends[1] else a for a in first]
    refused(with_lists(swapped, second), "SEND_F0.1→1 comes before F0.1")
    refused(with_lists(first, second[::-1]), "rank 1", "comes before")
    refused(with_lists([Action(Kind.F, 1, 0), *first], second), "rank 0: F1.0", "doesn't visit stage 1 here")
    refused(with_lists([Action(Kind.F, 0, 2), *first], second), "there is no micro-batch 2 of 2")
    refused(with_lists([*first, Action(Kind.UPDATE)], second), "rank 1 lacks UPDATE")
    refused(with_lists([*first, Action(Kind.W, 0, 0)], second), "B and W", "must be B, or I and W")
    refused(with_lists([first[0], Action(Kind.OFFLOAD, 0, 0), *first[1:]], second), "OFFLOAD and FETCH")


def test_both_ends_have_one_order() -> None:
    schedule = add_messages(make_schedule("gpipe", 2, 2))
    second = list(schedule.actions[1])
    i, j = (i for i, a in enumerate(second) if a.kind is Kind.RECV_F)
    second[i], second[j] = second[j], second[i]
    second.sort(key=lambda a: a.kind is not Kind.RECV_F)
    refused(schedule.with_actions([schedule.actions[0], second]), "SEND_F0.0→1", "RECV_F1.1←0", "one order")


def test_a_deadlock_is_told_as_a_circle() -> None:
    f, b = Kind.F, Kind.B
    paths = (*straight_paths((0, 1), 1), (Hop(1, 1), Hop(0, 0)))
    lists = (
        (Action(f, 0, 1), Action(f, 0, 0), Action(b, 0, 0), Action(b, 0, 1)),
        (Action(f, 1, 0), Action(f, 1, 1), Action(b, 1, 0), Action(b, 1, 1)),
    )
    refused(add_messages(Schedule("each waits", paths, lists)), "deadlock", "rank 0", "rank 1", "again")


def test_odd_paths_are_refused() -> None:
    assert validate(add_messages(two_holders())) is None
    some = make_schedule("gpipe", 2, 1)
    refused(Schedule("x", (), ((),)), "no micro-batch")
    refused(Schedule("x", ((),), some.actions), "micro-batch 0 visits no stage")
    refused(Schedule("x", ((Hop(0, 0), Hop(0, 1)),), some.actions), "visits a stage twice")
    refused(Schedule("x", ((Hop(0, 0), Hop(1, 2)),), some.actions), "stage 1 on rank 2")


def test_the_bound_in_flight() -> None:
    schedule = make_schedule("1f1b", 4, 8)
    assert peak_in_flight(schedule) == (4, 3, 2, 1)
    validate(schedule, in_flight=4)
    refused(schedule, "rank 0 holds 4", "more than 3", in_flight=3)


def test_evaluation_has_forwards_alone() -> None:
    schedule = make_schedule("gpipe", 3, 4)
    forwards = schedule.with_actions([[a for a in actions if a.kind is Kind.F] for actions in schedule.actions])
    lists = add_messages(forwards)
    validate(lists, forward_only=True)
    refused(lists, "no backward")
    refused(add_messages(schedule), "in an evaluation", forward_only=True)


def test_a_reduction_without_all_who_hold_the_stage_is_refused() -> None:
    schedule = tied(add_messages(two_holders()))
    *others, last = schedule.actions
    lists = [*others, [a for a in last if a.kind is not Kind.REDUCE]]
    refused(schedule.with_actions(lists), "rank 2 lacks REDUCE1", "[1, 2]")
