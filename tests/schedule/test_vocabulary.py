"""Vocabulary passes in any schedule: valid, as many micro-batches in flight as the paper says, and no time lost."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.schedule import Action, Costs, Kind, Schedule, ScheduleError, StageCost, add_messages
from grainline.schedule.actions import COLLECTIVES
from grainline.schedule.members.one_f_one_b import one_f_one_b
from grainline.schedule.passes.update import add_update
from grainline.schedule.passes.vocabulary import (
    BARRIERS,
    Algorithm,
    add_vocabulary_passes,
    default_seconds,
    why_no_steady_state,
)
from grainline.schedule.passes.vocabulary_baselines import interlaced, redistributed_blocks
from grainline.schedule.simulator.lower import lower
from grainline.schedule.simulator.network import Network
from grainline.schedule.simulator.simulate import simulate
from grainline.schedule.table import SCHEDULES, make_schedule
from grainline.schedule.validate import peak_in_flight, validate

ALGORITHMS: tuple[Algorithm, ...] = ("vocab1", "vocab2")


def _costs(algorithm: Algorithm, forward: float = 1.0, backward: float = 2.0, collective: float = 0.0) -> Costs:
    stage = StageCost({Kind.F: forward, Kind.B: backward, Kind.I: backward / 2, Kind.W: backward / 2})
    passes = default_seconds(algorithm, forward) | dict.fromkeys(COLLECTIVES, collective)
    return Costs(lambda s, r: stage, rank_seconds=passes)


def _seconds(schedule: Schedule, costs: Costs) -> float:
    return simulate(lower(add_messages(schedule), costs, Network.ideal(schedule.ranks))).makespan


def _collectives(schedule: Schedule) -> list[list[Action]]:
    return [[a for a in actions if a.kind in COLLECTIVES] for actions in schedule.actions]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 8, 16])
def test_1f1b_holds_as_many_micro_batches_as_the_paper_says(ranks: int) -> None:
    bare = one_f_one_b(ranks, 3 * ranks + 2)
    for algorithm, barriers in BARRIERS.items():
        peaks = peak_in_flight(add_vocabulary_passes(bare, algorithm))
        assert peaks == tuple(peak + barriers for peak in peak_in_flight(bare))  # P + 2 and P + 1 on the first rank
    assert max(peak_in_flight(interlaced(ranks, 3 * ranks))) == max(1, 3 * ranks // 2)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("microbatches", [1, 2, 5, 24])
def test_lock_step_is_valid(ranks: int, microbatches: int) -> None:
    schedule = interlaced(ranks, microbatches)
    validate(schedule)
    validate(add_update(add_messages(schedule)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_no_time_is_lost_where_collectives_take_half_a_forward(algorithm: Algorithm, ranks: int) -> None:
    """Besides the ramps: (P − 1)(F + B) as in 1F1B, and at most two intervals in which the first collectives end."""
    microbatches = 16 * ranks
    costs = _costs(algorithm, collective=0.5)
    with_passes = add_vocabulary_passes(one_f_one_b(ranks, microbatches), algorithm, costs)
    interval = 1 + 2 + 1  # F, B, and S and T together
    least = microbatches * interval + (ranks - 1) * 3
    assert _seconds(with_passes, costs) <= least + 2 * interval


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_keeps_its_pace(name: str, algorithm: Algorithm) -> None:
    """Its own makespan, plus what the passes take, plus two intervals per barrier: barriers don't add up."""
    ranks, microbatches = 4, 32
    costs = _costs(algorithm, collective=0.25)
    bare = make_schedule(name, ranks, microbatches, costs=costs)
    chunks = bare.stages // ranks
    interval = 3 * chunks + 1
    allowed = _seconds(bare, costs) + microbatches * 1 + 2 * BARRIERS[algorithm] * interval
    found = _seconds(add_vocabulary_passes(bare, algorithm, costs), costs)
    slack = 1.25 if name == "v-min" else 1.03  # V-Min's block leaves no time between passes for others to move in
    assert found <= allowed * slack, (found, allowed)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_passes_fit_into_any_schedule(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SCHEDULES)))
    algorithm = data.draw(st.sampled_from(ALGORITHMS))
    ranks = data.draw(st.integers(1, 5))
    microbatches = ranks * data.draw(st.integers(2 if name == "dualpipe-v" else 1, 4))
    seconds = st.floats(0, 5, allow_subnormal=False)
    stages = {key: data.draw(seconds) for key in range(16)}
    costs = Costs(
        lambda s, r: StageCost(
            {kind: factor * stages[s % 16] for kind, factor in ((Kind.F, 1), (Kind.B, 2), (Kind.I, 1), (Kind.W, 1))}
        ),
        rank_seconds={kind: data.draw(seconds) for kind in (Kind.S, Kind.T, Kind.EMBED, *sorted(COLLECTIVES))},
    )
    bare = make_schedule(name, ranks, microbatches)
    schedule = add_vocabulary_passes(bare, algorithm, costs)

    validate(schedule)
    validate(add_update(add_messages(schedule)))
    order, *others = _collectives(schedule)
    assert all(each == order for each in others)
    kinds = Counter(action.kind for action in schedule.actions[0])
    passes = {Kind.S, Kind.T, Kind.C0, Kind.C1, Kind.EMBED, Kind.C_EMBED, Kind.C_EMBED_GRAD, Kind.EMBED_GRAD}
    assert all(kinds[kind] == microbatches for kind in passes)
    assert kinds[Kind.C2] == (microbatches if algorithm == "vocab1" else 0)
    for rank, (bare_actions, actions) in enumerate(zip(bare.actions, schedule.actions, strict=True)):
        forwards, backwards = ([a for a in bare_actions if (a.kind is Kind.F) == is_f] for is_f in (True, False))
        assert [a for a in actions if a.kind is Kind.F] == forwards
        assert [a for a in actions if a in set(backwards)] == backwards
        held = len(bare.stages_of(rank)) * BARRIERS[algorithm]
        assert peak_in_flight(schedule)[rank] <= peak_in_flight(bare)[rank] + held


@settings(max_examples=30, deadline=None)
@given(ranks=st.integers(1, 6), rounds=st.integers(1, 4), algorithm=st.sampled_from(ALGORITHMS))
def test_softmaxes_do_not_pile_up(ranks: int, rounds: int, algorithm: Algorithm) -> None:
    """At most three micro-batches' shares of the logits are kept: one in S, one under way, one waiting for T."""
    schedule = add_vocabulary_passes(one_f_one_b(ranks, ranks * rounds), algorithm)
    for actions in schedule.actions:
        held = 0
        for action in actions:
            held += (action.kind is Kind.S) - (action.kind is Kind.T)
            assert 0 <= held <= 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_other_ranks_wait_for_the_last_stage_not_it_for_them(algorithm: Algorithm) -> None:
    """Between the ramps C0 is asked for everywhere at least one pass before it is used."""
    schedule = add_vocabulary_passes(one_f_one_b(4, 16), algorithm)
    for actions in schedule.actions[:3]:
        for m in range(5, 14):
            asked, used = actions.index(Action(Kind.C0, microbatch=m)), actions.index(Action(Kind.S, microbatch=m))
            assert any(action.kind in (Kind.F, Kind.B) for action in actions[asked:used])


def test_forwards_alone_get_what_evaluation_needs() -> None:
    whole = one_f_one_b(3, 4)
    forwards = whole.with_actions([[a for a in actions if a.kind is Kind.F] for actions in whole.actions])
    found = add_vocabulary_passes(forwards, "vocab2")
    kinds = {action.kind for actions in found.actions for action in actions}
    assert kinds == {Kind.EMBED, Kind.C_EMBED, Kind.F, Kind.C0, Kind.S, Kind.C1}
    for actions in found.actions:
        assert Counter(a.kind for a in actions)[Kind.C1] == 4


def test_one_rank_has_it_all_to_itself() -> None:
    schedule = add_vocabulary_passes(one_f_one_b(1, 2), "vocab1")
    validate(schedule)
    assert [a for a in schedule.actions[0] if a.kind is Kind.B]


def test_bad_input_is_named() -> None:
    bare = one_f_one_b(2, 4)
    with pytest.raises(ScheduleError, match="'vocab3' of vocabulary passes: one of vocab1, vocab2"):
        add_vocabulary_passes(bare, "vocab3")  # type: ignore[arg-type]
    with pytest.raises(ScheduleError, match=r"rank 0 has SEND_F0.0→1 already: vocabulary passes go in before"):
        add_vocabulary_passes(add_messages(bare), "vocab1")
    with pytest.raises(ScheduleError, match=r"rank 0 has EMBED.0 already"):
        add_vocabulary_passes(add_vocabulary_passes(bare, "vocab2"), "vocab2")
    swapped = bare.with_actions([bare.actions[0], bare.actions[1][::-1]])
    with pytest.raises(ScheduleError, match="never gets to"):
        add_vocabulary_passes(swapped, "vocab2")


def test_too_few_micro_batches_are_told_and_still_work() -> None:
    assert why_no_steady_state(4, 5, "vocab2") is None
    message = why_no_steady_state(4, 5, "vocab1")
    assert message is not None
    assert "5 micro-batches over 4 ranks are too few" in message
    assert "Use 6 or more" in message
    schedule = add_vocabulary_passes(one_f_one_b(4, 4), "vocab1")
    validate(schedule)
    assert max(peak_in_flight(schedule)) == 4


@pytest.mark.parametrize(
    ("output_in_blocks", "last"),
    [(0.78, 4), (1.56, 3), (3.125, 1), (6.25, 0)],  # V = 32k, 64k, 128k, 256k at h 3072, s 2048
)
def test_redistribution_over_8_ranks_of_32_blocks(output_in_blocks: float, last: int) -> None:
    blocks = redistributed_blocks(32, 8, output_in_blocks)
    assert blocks[-1] == last
    assert sum(blocks) == 32
    assert all(a <= b <= a + 1 for a, b in pairwise(blocks[:-1]))


@given(blocks=st.integers(1, 40), ranks=st.integers(2, 9), output=st.floats(0, 30))
def test_no_other_cut_of_the_last_rank_is_faster(blocks: int, ranks: int, output: float) -> None:
    def slowest(cut: tuple[int, ...]) -> float:
        return max(*cut[:-1], cut[-1] + output)

    found = redistributed_blocks(blocks, ranks, output)
    assert len(found) == ranks
    assert sum(found) == blocks
    for last in range(blocks + 1):
        each, more = divmod(blocks - last, ranks - 1)
        assert slowest(found) <= slowest((*(each + (i < more) for i in range(ranks - 1)), last))
    with pytest.raises(ValueError, match="nothing to move"):
        redistributed_blocks(blocks, 1, output)
