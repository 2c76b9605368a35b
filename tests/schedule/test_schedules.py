"""Schedules against the closed forms of their papers, and valid for whatever they accept."""

from __future__ import annotations

import random
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import GrainlineError
from grainline.schedule import (
    SCHEDULES,
    Costs,
    Kind,
    Network,
    Schedule,
    ScheduleError,
    StageCost,
    Timeline,
    add_messages,
    dualpipe_v,
    eager_1f1b,
    equal_costs,
    interleaved_1f1b,
    lower,
    make_schedule,
    one_f_one_b,
    peak_in_flight,
    simulate,
    split_backward,
    v_half,
    v_min,
    validate,
    zb_auto,
    zb_h1,
    zb_h2,
    zb_v,
)

EQUAL = equal_costs(1, 2)  # F, I and W alike


def played(schedule: Schedule, costs: Costs = EQUAL, latency_seconds: float = 0.0, lookahead: int = 1) -> Timeline:
    network = Network.uniform(schedule.ranks, latency_seconds, 1.0)
    return simulate(lower(add_messages(schedule, lookahead), costs, network))


def waited(timeline: Timeline) -> list[float]:
    """By rank: seconds without compute between its first and its last."""
    compute = [i for i, action in enumerate(timeline.actions) if action.kind in (Kind.F, Kind.B, Kind.I, Kind.W)]
    found = []
    for rank in range(timeline.ranks):
        mine = [i for i in compute if timeline.rank[i] == rank]
        span = max(timeline.end[i] for i in mine) - min(timeline.start[i] for i in mine)
        found.append(float(span - sum(timeline.end[i] - timeline.start[i] for i in mine)))
    return found


def uneven(seed: int, most: float = 4.0) -> Costs:
    """Different F, I and W for every stage and rank."""

    def stage(stage: int, rank: int) -> StageCost:
        chance = random.Random(f"{seed} {stage} {rank}")
        f, i, w = (chance.uniform(0.1, most) for _ in range(3))
        return StageCost({Kind.F: f, Kind.B: i + w, Kind.I: i, Kind.W: w})

    return Costs(stage)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(1, 6),
    st.integers(1, 14),
    st.integers(1, 4),
    st.integers(0, 3),
    st.none() | st.integers(0, 9),
)
def test_every_schedule_is_valid_for_all_that_it_accepts(
    name: str, ranks: int, microbatches: int, chunks: int, lookahead: int, seed: int | None
) -> None:
    known = SCHEDULES[name]
    chunks = max(known.chunks[0], min(chunks, known.chunks[1] or chunks))
    costs = None if seed is None else uneven(seed)
    if known.refuses(ranks, microbatches, chunks):
        with pytest.raises(GrainlineError, match="take"):
            make_schedule(name, ranks, microbatches, chunks=chunks, costs=costs)
        return
    schedule = make_schedule(name, ranks, microbatches, chunks=chunks, costs=costs)
    assert (schedule.name, schedule.ranks, schedule.microbatches) == (name, ranks, microbatches)
    assert tuple(hop.rank for hop in schedule.paths[0]) == known.place(ranks, chunks)
    assert [hop.stage for hop in schedule.paths[0]] == list(range(ranks * chunks))
    assert any(a.kind is Kind.W for actions in schedule.actions for a in actions) == known.splits
    validate(schedule)
    validate(add_messages(schedule, lookahead))
    assert make_schedule(name, ranks, microbatches, chunks=chunks, costs=costs) == schedule


@pytest.mark.parametrize(("ranks", "microbatches"), [(1, 3), (2, 1), (4, 4), (4, 9), (8, 32)])
def test_gpipe_and_1f1b_take_as_long_and_hold_differently(ranks: int, microbatches: int) -> None:
    """arXiv 1811.06965, section 2.3; arXiv 2104.04473, section 2.2.1."""
    costs = equal_costs(0.5, 1.25)
    for name, held in (("gpipe", lambda rank: microbatches), ("1f1b", lambda rank: min(microbatches, ranks - rank))):
        schedule = make_schedule(name, ranks, microbatches)
        timeline = played(schedule, costs)
        assert timeline.makespan == pytest.approx((microbatches + ranks - 1) * 1.75, rel=1e-12)
        assert timeline.bubble_fraction == pytest.approx((ranks - 1) / (microbatches + ranks - 1), rel=1e-9)
        assert peak_in_flight(schedule) == tuple(held(rank) for rank in range(ranks))


@pytest.mark.parametrize(("p", "v", "m"), [(8, 1, 32), (8, 2, 32), (8, 4, 32), (4, 2, 8)])
def test_interleaving_divides_the_papers_bubble(p: int, v: int, m: int) -> None:
    assert played(interleaved_1f1b(p, m, v)).bubble_overhead == pytest.approx((p - 1) / (m * v), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(2, 4), st.integers(1, 4))
def test_interleaving_in_general(p: int, v: int, groups: int) -> None:
    m = p * groups
    schedule = interleaved_1f1b(p, m, v)
    assert played(schedule).bubble_overhead == pytest.approx((p - 1) / (m * v), abs=1e-12)
    assert peak_in_flight(schedule) == tuple(min(m * v, 2 * (p - 1 - r) + (v - 1) * p + 1) for r in range(p))


def test_interleaving_one_chunk_is_1f1b() -> None:
    assert interleaved_1f1b(4, 10, 1).actions == one_f_one_b(4, 10).actions


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_eager_warm_up_hides_slow_links(ahead: int) -> None:
    """A message there and one back may together take (ahead − 1) passes before the steady state waits for them."""
    forward_and_back = 3.0
    assert peak_in_flight(eager_1f1b(4, 20, ahead)) == tuple(ahead * (3 - r) + 1 for r in range(4))

    def per_microbatch(latency_seconds: float) -> float:
        spans = [played(eager_1f1b(4, m, ahead), EQUAL, latency_seconds, 2 * ahead).makespan for m in (24, 48)]
        return (spans[1] - spans[0]) / 24

    hidden = (ahead - 1) * forward_and_back / 2
    assert per_microbatch(hidden) == pytest.approx(forward_and_back)
    assert per_microbatch(hidden + 0.2) > forward_and_back * 1.05


def test_eager_posts_its_receives_as_early_as_slow_links_need() -> None:
    schedule, table = make_schedule("eager-1f1b", 4, 16), SCHEDULES["eager-1f1b"]
    spans = {ahead: played(schedule, EQUAL, 2.0, ahead).makespan for ahead in (1, table.lookahead, 60)}
    assert spans[table.lookahead] == spans[60] < spans[1]


@pytest.mark.parametrize(("p", "v", "m"), [(4, 2, 8), (8, 4, 8), (3, 3, 7)])
def test_breadth_first_does_each_stage_in_one_stretch(p: int, v: int, m: int) -> None:
    schedule = make_schedule("breadth-first", p, m, chunks=v)
    assert played(schedule).bubble_overhead == pytest.approx((p - 1) / (m * v), rel=1e-12)
    for actions in schedule.actions:
        visits = [(a.kind, a.stage) for a in actions]
        assert sum(a != b for a, b in pairwise(visits)) == 2 * v - 1
    assert peak_in_flight(schedule) == (m * v,) * p


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("more", [0, 5])
def test_zb_h1_has_a_third_of_the_bubble(ranks: int, more: int) -> None:
    """(P − 1)(F + I − W) against (P − 1)(F + I + W): arXiv 2401.10241, table 1; and 1F1B's memory on every rank."""
    microbatches = 2 * ranks + more
    ideal = 3 * microbatches
    bubble = played(one_f_one_b(ranks, microbatches)).makespan - ideal
    schedule = zb_h1(ranks, microbatches)
    assert played(schedule).makespan - ideal == pytest.approx(bubble / 3) == pytest.approx(ranks - 1)
    assert max(peak_in_flight(schedule)) == ranks
    assert split_backward(one_f_one_b(ranks, microbatches)).actions == schedule.actions


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_zb_h1_interleaved(ranks: int) -> None:
    schedule = zb_h1(ranks, 3 * ranks, chunks=2)
    assert played(schedule).makespan == pytest.approx(3 * 2 * 3 * ranks + ranks - 1)
    assert max(peak_in_flight(schedule)) <= 2 * ranks


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("more", [0, 5])
def test_zb_h2_and_zb_v_never_wait_once_begun(ranks: int, more: int) -> None:
    """Rank r begins when the first micro-batch reaches it; arXiv 2401.10241, section 2.2 and section 6."""
    microbatches = 2 * ranks - 1 + more
    for schedule, stages, held in (
        (zb_h2(ranks, microbatches), 1, 2 * ranks - 1),
        (zb_v(ranks, microbatches), 2, 2 * ranks),
    ):
        timeline = played(schedule)
        assert waited(timeline) == pytest.approx([0.0] * ranks)
        assert timeline.makespan == pytest.approx(3 * stages * microbatches + ranks - 1)
        assert max(peak_in_flight(schedule)) == held


@pytest.mark.parametrize(("ranks", "held"), [(4, 6), (8, 10), (16, 18), (32, 34)])
def test_v_half_has_half_the_memory_and_half_the_bubble(ranks: int, held: int) -> None:
    """P + 2 half-stages against 2P; the bubble is in units of a half-stage's pass (arXiv 2405.15362, table 1)."""
    few, more = (played(v_half(ranks, m)).makespan - 6 * m for m in (2 * ranks, 2 * ranks + 3))
    assert max(peak_in_flight(v_half(ranks, 2 * ranks))) == held
    assert few == pytest.approx(more)  # what is lost is lost at both ends; the steady state has no gap
    assert few <= 6 * (ranks - 1) / 2


@pytest.mark.parametrize(("ranks", "until_i", "until_w"), [(4, 4, 4), (8, 6, 8), (16, 12, 12), (32, 22, 24)])
def test_v_min_nears_a_third_of_the_memory(ranks: int, until_i: int, until_w: int) -> None:
    """2, 3, 6 and 11 stages until the input's gradient; what W needs makes it up to two half-stages more."""
    schedule = v_min(ranks, 2 * ranks)
    assert max(peak_in_flight(schedule)) == until_w
    unsplit = [[a for a in actions if a.kind is not Kind.W] for actions in schedule.actions]
    counts = [max(accumulate(1 if a.kind is Kind.F else -1 for a in actions)) for actions in unsplit]
    assert until_i <= max(counts) <= until_w
    few, more = (played(v_min(ranks, m)).makespan - 6 * m for m in (2 * ranks, 2 * ranks + 3))
    assert few == pytest.approx(more)
    assert few <= 6 * (ranks - 1) * 2 / 3 * 1.05


@pytest.mark.parametrize(("ranks", "microbatches"), [(1, 2), (2, 4), (3, 9), (4, 8), (8, 20)])
def test_dualpipe_v_pairs_forwards_with_backwards(ranks: int, microbatches: int) -> None:
    schedule = dualpipe_v(ranks, microbatches)
    for rank, actions in enumerate(schedule.actions):
        pairs = sum(a.kind is Kind.F and b.kind is Kind.B and a.stage != b.stage for a, b in pairwise(actions))
        assert pairs >= 2 * (microbatches - 2 * ranks + rank + 1)
        assert sum(a.kind is Kind.W for a in actions) == 2 * ranks - 1 - rank
    assert max(peak_in_flight(schedule)) == 2 * ranks + 1 or ranks == 1
    assert played(schedule).makespan == pytest.approx(6 * microbatches + ranks - 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([0.0, 0.3]))
def test_fitting_to_costs_pays(ranks: int, microbatches: int, seed: int, latency: float) -> None:
    costs = uneven(seed)
    auto = zb_auto(ranks, microbatches, costs, held=ranks, message_seconds=latency)
    assert max(peak_in_flight(auto)) <= ranks
    h1 = played(zb_h1(ranks, microbatches, costs, message_seconds=latency), costs, latency).makespan
    assert played(auto, costs, latency).makespan <= h1 * (1 + 1e-9)
    free = zb_auto(ranks, microbatches, costs, message_seconds=latency)
    h2 = played(zb_h2(ranks, microbatches, costs, message_seconds=latency), costs, latency).makespan
    assert played(free, costs, latency).makespan <= h2 * (1 + 1e-9)
    assert played(free, costs, latency).makespan >= max(played(free, costs, latency).busy_seconds())


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ScheduleError, match="3 micro-batches held on 4 ranks"):
        zb_auto(4, 8, held=3)
    with pytest.raises(ScheduleError, match="rank 0 must hold more than 2"):
        split_backward(one_f_one_b(4, 8), held=2)
    with pytest.raises(ScheduleError, match="stage 0 on rank 0 has no cost of I, W"):
        zb_h1(2, 2, Costs(lambda stage, rank: StageCost({Kind.F: 1, Kind.B: 2})))
    with pytest.raises(ValueError, match="1 or more"):
        eager_1f1b(2, 4, ahead=0)
    for make in (lambda: interleaved_1f1b(4, 6, 2), lambda: dualpipe_v(4, 7)):
        with pytest.raises(ValueError, match="micro-batches"):
            make()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("1f1", 2, 4, None), "Did you mean '1f1b'?"),
        (("xyz", 2, 4, None), "Known here: 1f1b,"),
        (("gpipe", 2, 0, None), "0 micro-batches: there must be 1 or more"),
        (("gpipe", 0, 4, None), "0 ranks: there must be 1 or more"),
        (("gpipe", 2, 4, 2), "1 stage per rank, not 2: leave the chunks out, or take 'interleaved'"),
        (("v-half", 2, 4, 1), "2 stages per rank, not 1: take 'gpipe'"),
        (("interleaved", 2, 4, 0), "1 or more stages per rank, not 0"),
        (("interleaved", 4, 10, None), "take 8 or 12 micro-batches, or the schedule '1f1b'"),
        (("interleaved", 4, 3, None), "take 4 micro-batches, or the schedule '1f1b'"),
        (("dualpipe-v", 4, 7, None), "needs 8 micro-batches or more for 4 ranks, not 7: take as many, or 'zb-v'"),
    ],
)
def test_mistakes_are_told_with_what_to_do(arguments: tuple[str, int, int, int | None], words: str) -> None:
    name, ranks, microbatches, chunks = arguments
    with pytest.raises(GrainlineError) as caught:
        make_schedule(name, ranks, microbatches, chunks=chunks)
    assert words in str(caught.value)
