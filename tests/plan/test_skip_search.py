"""One micro-batch's routes, and conflict-based search over several: against trying everything."""

from __future__ import annotations

import sys
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grainline.documents import GrainlineError
from grainline.plan.skip.check import check_routes, check_times
from grainline.plan.skip.conflicts import conflict_based_search, longest, quotas_can_be_met
from grainline.plan.skip.prioritised import prioritised
from grainline.plan.skip.problem import SkipProblem, What
from grainline.plan.skip.search import best_route, routes
from grainline.plan.skip.solve import solve
from grainline.plan.skip.violations import first_violation
from grainline.plan.skip.walk import Walk, busy, walk

sys.path.insert(0, str(Path(__file__).parent))
from skip_cases import every_route, problem, round_trip, shortest_longest

INF = float("inf")


def sizes() -> st.SearchStrategy[list[int]]:
    """Of three to five stages, eight nodes at most."""
    return st.lists(st.integers(1, 3), min_size=3, max_size=5).filter(lambda found: sum(found) <= 8)


@settings(max_examples=25, deadline=None)
@given(sizes(), st.data())
def test_the_best_route_is_that_of_trying_everything(found: list[int], data: st.DataObject) -> None:
    length = data.draw(st.integers(2, len(found)))
    p = problem(
        found,
        length,
        2,
        seed=data.draw(st.integers(0, 99)),
        missing=data.draw(st.sampled_from((0.0, 0.3))),
        max_jump=data.draw(st.integers(1, 4)),
        max_swaps=data.draw(st.integers(0, 2)),
        max_back=data.draw(st.integers(0, 2)),
        slots=9,
    )
    forbidden = data.draw(st.frozensets(st.integers(found[0], sum(found) - 1), max_size=2))
    every = sorted(round_trip(p, r, p.release_seconds[1]) for r in every_route(p, 1) if not forbidden & set(r))
    mine = [one.seconds for one in routes(p, 1, forbidden)]
    assert mine == pytest.approx(every)
    best = best_route(p, 1, forbidden)
    assert (best is None) == (not every)
    for one in islice(routes(p, 1, forbidden), 5):
        assert one.seconds == pytest.approx(round_trip(p, one.route, p.release_seconds[1]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_with_others_in_the_way_it_still_is(seed: int) -> None:
    p = problem((2, 2, 2, 1), 3, 3, seed=seed)
    others = [walk(p, agent, best_route(p, agent).route) for agent in (0, 1)]  # type: ignore[union-attr]
    windows = busy(p, others)
    every = [walk(p, 2, route, windows) for route in every_route(p, 2)]
    best = best_route(p, 2, windows=windows)
    assert best is not None
    assert best.seconds == pytest.approx(min(one.seconds for one in every))
    for one in (best, *every):
        assert not any(a.overlaps(b) for a in one.visits for other in others for b in other.visits)
        for before, after in pairwise(one.visits):
            hop = 0.0 if before.node == after.node else p.transfer_seconds[before.node][after.node]
            assert after.start >= before.end + hop - 1e-9


SHAPES = (((1, 2, 1, 1), 3, 2, 2), ((2, 1, 1, 1), 3, 3, 3), ((2, 2, 1, 1), 3, 3, 2), ((1, 1, 2, 2), 3, 3, 3))
"""Nodes by stage, path length, micro-batches, slots."""


# Links fast enough for micro-batches to get into each other's way. The examples have their shortest only where a window
# is closed from the very start that collides to the very end, and not a moment longer.
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from(SHAPES[:3]), st.booleans(), st.sampled_from((4, 12)))
@example(7, SHAPES[2], True, 4)
@example(11, SHAPES[2], True, 4)
@example(12, SHAPES[3], False, 4)
@example(13, SHAPES[0], True, 4)
def test_the_longest_walk_is_as_short_as_it_can_be(
    seed: int, shape: tuple[tuple[int, ...], int, int, int], together: bool, furthest: int
) -> None:
    counts, length, agents, slots = shape
    release = (0.0,) * agents if together else ()
    p = problem(counts, length, agents, seed=seed, slots=slots, release_seconds=release, furthest=furthest)
    found = conflict_based_search(p)
    best = shortest_longest(p)
    assert found.bound_seconds == pytest.approx(best)
    assert longest(found.solutions[-1]) == pytest.approx(best)
    for walks in found.solutions:
        assert obeys(p, walks)


def obeys(p: SkipProblem, walks: tuple[Walk, ...]) -> bool:
    """By the independent check."""
    paths = [one.route for one in walks]
    times = [[(visit.start, visit.end) for visit in one.visits] for one in walks]
    return [*check_routes(p, paths), *check_times(p, paths, times)] == []


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.booleans())
def test_tight_quotas_are_met(seed: int, collisions: bool) -> None:
    p = problem((3, 2, 2, 2, 2), 3, 6, seed=seed, slots=3)  # 12 visits beyond stage 0
    tight = problem((3, 1, 1, 1, 1), 3, 6, seed=seed, slots=3)  # for exactly 12 slots
    for one in (p, tight):
        planned = prioritised(one, range(one.agents))
        assert planned is not None
        assert obeys(one, planned)
        answer = solve(one, 12, collision_aware=collisions, budget_s=1.0, tries=20)
        assert not list(check_routes(one, answer.routes))
    assert all(sum(node in r for r in answer.routes) == 3 for node in range(3, 7))


def test_two_micro_batches_that_meet_are_told_apart_by_hand() -> None:
    """Two data nodes, 1 s apart from one node of stage 1; forwards take 1 s, backwards 1.5 s, the loss nothing.

    Both would start there at 2 s. One goes first, until 3 s, and is home at 4 s, back there at 5 s until 6.5 s, and
    home from 7.5 s to 9 s. The other waits until 3 s: there until 4 s, home at 5 s, back at 6 s. Two backwards may
    overlap: until 7.5 s, and home from 8.5 s to 10 s.
    """
    hops = ((0.0, 9.0, 1.0), (9.0, 0.0, 1.0), (1.0, 1.0, 0.0))
    p = SkipProblem(((0, 1), (2,)), (1.0, 1.0, 1.0), hops, (0, 1), 2, slots=2, loss_share=0.0)
    free = [best_route(p, agent) for agent in (0, 1)]
    assert [one.seconds for one in free if one] == [9.0, 9.0]
    choices = first_violation(p, [one for one in free if one])
    assert choices is not None
    assert {c.agent for c in choices} == {0, 1}
    found = conflict_based_search(p)
    walks = found.solutions[-1]
    assert sorted(one.seconds for one in walks) == [9.0, 10.0]
    late = max(walks, key=lambda one: one.seconds)
    assert [(v.start, v.end) for v in late.visits] == [(0, 1), (3, 4), (5, 5), (6, 7.5), (8.5, 10)]
    assert [v.what for v in late.visits] == [What.FORWARD, What.FORWARD, What.LOSS, What.BACKWARD, What.BACKWARD]


def test_a_flow_tells_whether_quotas_can_be_met() -> None:
    p = problem((2, 1, 1, 1), 3, 3, slots=2)
    assert quotas_can_be_met(p, [frozenset()] * 3)
    assert not quotas_can_be_met(p, [frozenset({2}), frozenset({2}), frozenset({2})])  # 6 visits, 4 slots
    assert not quotas_can_be_met(p, [frozenset({2, 3}), frozenset(), frozenset()])  # one stage left for two


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path_length": 5}, "between 2 and 4"),
        ({"path_length": 1}, "between 2 and 4"),
        ({"slots": 0}, "slots is 0"),
        ({"starts": ()}, "there is no micro-batch"),
        ({"starts": (3, 0)}, "micro-batch 0 starts at node 3, which doesn't serve stage 0"),
        ({"stages": ((0, 1), (2,), (), (4,))}, "stage 2 is served by no node"),
        ({"stages": ((0, 1), (2,), (2,), (4,))}, "node 2 serves 2 stages"),
        ({"stages": ((0, 1), (2,), (3,), (9,))}, "there is no node 9"),
        ({"forward_seconds": (1.0, 1.0, 0.0, 1.0, 1.0)}, "forward_seconds of node 2"),
        ({"transfer_seconds": ((0.0,),)}, "5 rows of 5"),
        ({"transfer_seconds": ((0.0, -1.0, 1, 1, 1),) * 5}, "from node 0 to 1 is -1.0"),
        ({"transfer_seconds": ((0.0, float("nan"), 1, 1, 1),) * 5}, "must be 0 or more, or infinite"),
        ({"starts": (0, 0, 0), "release_seconds": ()}, "3 micro-batches start at node 0, which has 2 slots"),
        ({"release_seconds": (1.0,)}, "for each micro-batch"),
        ({"max_jump": 0}, "max_jump must be 1"),
        ({"loss_share": -1.0}, "loss_share is -1.0"),
        ({"slots": 1, "path_length": 4, "starts": (0, 1)}, "least has stage 1, with 1"),
    ],
)
def test_what_cant_be_is_refused(change: dict[str, object], words: str) -> None:
    whole = {name: getattr(problem(slots=2), name) for name in problem().__dataclass_fields__}
    with pytest.raises(GrainlineError, match=words):
        SkipProblem(**(whole | change))  # type: ignore[arg-type]


def test_missing_links_are_not_taken_and_too_many_are_told_of() -> None:
    p = problem((1, 2, 2), 3, 1)
    hops = [list(row) for row in p.transfer_seconds]
    hops[1][0] = hops[3][1] = INF  # one direction is enough: a gradient goes the other way
    apart = SkipProblem(p.stages, p.forward_seconds, tuple(map(tuple, hops)), p.starts, 3)
    assert all(one.route[1] != 1 and one.seconds < INF for one in routes(apart, 0))
    for node in (3, 4):
        hops[node][0] = INF
    alone = SkipProblem(p.stages, p.forward_seconds, tuple(map(tuple, hops)), p.starts, 3, max_swaps=0)
    with pytest.raises(GrainlineError, match="micro-batch 0, which starts at node 0, finds no path of 3 stages"):
        solve(alone, 1)


def test_out_of_time_the_best_so_far_comes_with_its_gap() -> None:
    p = problem((3, 2, 2, 2, 2), 3, 6, seed=4, slots=3)
    hurried = solve(p, 6, budget_s=0.0, tries=0)
    assert not list(check_routes(p, hurried.routes))
    assert hurried.gap is None
    assert hurried.bound_seconds is not None
    patient = solve(p, 6, budget_s=20.0, tries=0)
    assert patient.gap == 0.0
    assert patient.longest_seconds == pytest.approx(patient.bound_seconds)
    assert hurried.bound_seconds <= patient.longest_seconds + 1e-9  # type: ignore[operator]
