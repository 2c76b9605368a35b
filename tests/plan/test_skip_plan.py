"""Plans of partial pipelines: placement, order of visits, judging, baselines, documents, and lost nodes."""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import Cluster, GrainlineError, Plan, Recipe
from grainline.hardware.topology import topology
from grainline.models.dial import config_for_depth, dense_twin
from grainline.plan import memory
from grainline.plan.cost import Speed, cell_cost
from grainline.plan.memory import MicroBatch
from grainline.plan.pipeline import pipeline_plan
from grainline.plan.skip.baselines import full_pipelines, random_routes
from grainline.plan.skip.check import check_routes, check_times
from grainline.plan.skip.coarse import coarsened
from grainline.plan.skip.judge import Setting, judge, schedule_of
from grainline.plan.skip.placement import FEW, pairing, place, shortest_way
from grainline.plan.skip.plan import (
    METHODS,
    plan_by,
    plan_skip,
    planned_at_once,
    problem_for,
    setting_for,
    shared_out,
)
from grainline.plan.skip.problem import SkipProblem
from grainline.plan.skip.reroute import reroute
from grainline.plan.skip.timetable import step_seconds, timetable
from grainline.plan.skip.work import Work, blocks_alike, work_of
from grainline.schedule import add_messages, validate
from grainline.schedule.actions import Kind
from grainline.schedule.cells import cells_of
from grainline.schedule.members.partial import LOOKAHEAD

sys.path.insert(0, str(Path(__file__).parent))
from skip_cases import problem


def spread(seed: int = 0, **rest: object) -> SkipProblem:
    """Ten nodes, five stages, six micro-batches with three stages each."""
    return problem((2, 2, 2, 2, 2), 3, 6, seed=seed, **{"slots": 3, **rest})  # type: ignore[arg-type]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.integers(1, 17), st.sampled_from((4, 30)))
def test_the_plans_own_clock_is_the_simulators(seed: int, microbatches: int, furthest: int) -> None:
    p = spread(seed, furthest=furthest)
    routes = random_routes(p, seed)
    visits = timetable(p, routes, microbatches)
    schedule = schedule_of(p, routes, microbatches)
    validate(add_messages(schedule, LOOKAHEAD))
    timeline = judge(schedule, Setting.of(p))
    assert timeline.makespan == pytest.approx(max(mine[-1].end for mine in visits))
    assert step_seconds(p, routes, microbatches) == pytest.approx(timeline.makespan)
    starts = {
        (a.kind, a.stage, a.microbatch): start
        for a, start in zip(timeline.actions, timeline.start.tolist(), strict=True)
        if a.kind in (Kind.F, Kind.B)
    }
    for m, mine in enumerate(visits):
        path = schedule.paths[m]
        for hop, visit in zip(path[:-1], mine, strict=False):
            assert starts[Kind.F, hop.stage, m] == pytest.approx(visit.start)
            assert visit.node == hop.rank


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999))
def test_no_node_holds_more_than_its_slots_or_does_two_things_at_once(seed: int) -> None:
    p = spread(seed)
    routes = random_routes(p, seed)
    visits = timetable(p, routes, 14)
    for first in range(0, 14, 6):  # a round is a plan as well, later than it must be
        mine = [[(v.start, v.end) for v in visits[m]] for m in range(first, min(14, first + 6))]
        assert not list(check_times(p, routes[: len(mine)], mine))
    for node in range(p.nodes):
        held = []
        for mine in visits:
            here = [v for v in mine if v.node == node and v.what != 1]
            held += [(here[0].start, 1), (here[-1].end, -1)] if here else []
        count = 0
        for _, change in sorted(held):
            count += change
            assert count <= p.slots
        at_once = sorted((v.start, v.end) for mine in visits for v in mine if v.node == node)
        assert all(one[1] <= other[0] + 1e-9 for one, other in itertools.pairwise(at_once))


def test_what_the_checker_is_told_wrong_it_tells() -> None:
    p = problem((2, 1, 1, 1, 1, 1), 3, 2, slots=2)
    good = ((0, 2, 3), (1, 3, 4))
    assert not list(check_routes(p, good))
    for bad, words in (
        ((0, 2), "CC3"),
        ((2, 3, 4), "CC1"),
        ((0, 3, 3), "CC2: visits a stage twice"),
        ((0, 4, 2), "CC2: goes 2 stages behind"),
        ((0, 2, 1), "comes to stage 0"),
        ((0, 7, 2), "serves 0 stages"),
    ):
        assert any(words in said for said in check_routes(p, (bad, good[1]))), words
    jumping = problem((2, 1, 1, 1, 1, 1), 3, 2, slots=2, max_jump=1)
    assert any("CC2: jumps" in said for said in check_routes(jumping, ((0, 3, 4), (1, 2, 3))))
    calm = problem((2, 1, 1, 1, 1, 1), 3, 2, slots=2, max_swaps=0)
    assert any("1 swaps" in said for said in check_routes(calm, ((0, 3, 2), (1, 2, 3))))
    narrow = problem((2, 1, 1, 1, 1, 1), 3, 2, slots=1)
    assert sum("TC1" in said for said in check_routes(narrow, ((0, 2, 3), (1, 2, 3)))) == 4
    visits = timetable(p, good, 2)
    times = [[(v.start, v.end) for v in mine] for mine in visits]
    assert not list(check_times(p, good, times))
    late = [times[0], [(begin + 0.01, end) for begin, end in times[1]]]
    assert any("takes" in said for said in check_times(p, good, late))
    early = [times[0], [(0.0, end - begin) for begin, end in times[1]]]
    assert any("can't be before" in said for said in check_times(p, good, early))
    meeting = [
        [
            (5.0, 5.0 + end - begin) if v.node == 3 and v.what == 0 else (begin, end)
            for v, (begin, end) in zip(mine, of, strict=True)
        ]
        for mine, of in zip(visits, times, strict=True)
    ]
    assert any("TC2" in said for said in check_times(p, good, meeting))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_pairing_is_that_of_trying_everything(rows: int, columns: int, seed: int) -> None:
    costs = np.random.default_rng(seed).integers(0, 9, (rows, columns)).astype(float)
    wide = costs if rows <= columns else costs.T
    best = min(
        max(wide[i, j] for i, j in enumerate(way))
        for way in itertools.permutations(range(wide.shape[1]), wide.shape[0])
    )
    seconds, pairs = pairing(costs)
    assert seconds == best == max(costs[i, j] for i, j in pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == min(rows, columns)


def test_pairing_of_many_is_that_of_few() -> None:
    costs = np.random.default_rng(0).random((7, 9))
    assert np.prod(range(3, 10)) > FEW
    seconds, pairs = pairing(costs)
    assert seconds == max(costs[i, j] for i, j in pairs)
    below = costs < seconds - 1e-12
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    assert (maximum_bipartite_matching(csr_array(below.astype(int)), "column") >= 0).sum() < 7


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99))
def test_the_order_of_stages_is_that_of_trying_everything(n: int, seed: int) -> None:
    costs = np.random.default_rng(seed).integers(1, 9, (n, n)).astype(float)
    length, way = shortest_way(costs)
    ways = [(0, *rest) for rest in itertools.permutations(range(1, n))]
    assert length == min(sum(costs[x, y] for x, y in itertools.pairwise(each)) for each in ways)
    assert length == sum(costs[x, y] for x, y in itertools.pairwise(way))
    assert sorted(way) == list(range(n))


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 2, 2), (1, 2, 3)])
@pytest.mark.parametrize("weight", [0.0, 1.5])
def test_placement_finds_what_trying_everything_finds(sizes: tuple[int, ...], weight: float) -> None:
    rng = random.Random(1)
    n = sum(sizes)
    at = [(rng.random(), rng.random()) for _ in range(n)]
    hop = [[abs(complex(*a) - complex(*b)) for b in at] for a in at]

    def cost(stages: tuple[tuple[int, ...], ...]) -> float:
        way = 0.0
        for one, other in itertools.pairwise(stages):
            small, large = sorted((one, other), key=len)
            way += min(
                max(hop[x][y] for x, y in zip(small, chosen, strict=True))
                for chosen in itertools.permutations(large, len(small))
            )
        return way + weight * max(hop[x][y] for stage in stages for x in stage for y in stage)

    ends = list(itertools.accumulate(sizes))
    best = min(
        cost(tuple(row[end - size : end] for end, size in zip(ends, sizes, strict=True)))
        for row in itertools.permutations(range(n))
        if all(list(row[e - s : e]) == sorted(row[e - s : e]) for e, s in zip(ends, sizes, strict=True))
    )
    found = place(hop, sizes, gradient_weight=weight, trials=150, population=20)
    assert found.seconds == pytest.approx(best)
    assert cost(found.stages) == pytest.approx(found.seconds)
    assert tuple(map(len, found.stages)) == sizes
    assert found == place(hop, sizes, gradient_weight=weight, trials=150, population=20)
    with pytest.raises(GrainlineError, match=f"take {n} of {n - 1}"):
        place([row[1:] for row in hop[1:]], sizes)


def test_random_routes_keep_to_the_constraints_and_differ() -> None:
    p = spread(max_jump=2)
    found = {random_routes(p, seed) for seed in range(5)}
    assert len(found) == 5
    for routes in found:
        assert not list(check_routes(p, routes))


def test_full_pipelines_are_as_many_as_the_smallest_stage_has_nodes() -> None:
    p = problem((3, 2, 3, 2), 3, 6, slots=3)
    full, routes = full_pipelines(p)
    assert full.path_length == 4
    assert not list(check_routes(full, routes))
    assert Counter(Counter(routes).values()) == {3: 2}
    assert len({node for route in routes for node in route}) == 8
    assert len(set(routes[:2])) == 2  # one micro-batch after another goes to another pipeline


def test_all_stages_without_swaps_is_the_full_pipeline() -> None:
    p = problem((2, 2, 2), 3, 4, slots=2, max_swaps=0)
    plan = plan_skip(p, budget_s=5.0)
    for path in plan.schedule.paths:
        assert [hop.stage for hop in path] == [0, 1, 2, 3]
    assert not list(check_routes(p, plan.routes))


def test_methods_obey_and_the_aware_one_is_the_quickest() -> None:
    p = spread(3, furthest=8)
    plans = {method: plan_by(method, p, 12, budget_s=3.0, tries=200) for method in METHODS}
    for method, plan in plans.items():
        assert not list(check_routes(plan.problem, plan.routes)), method
        assert plan.microbatches == len(plan.paths) == 12
        assert plan.expected_seconds == pytest.approx(step_seconds(plan.problem, plan.routes, 12))
    assert plans["aware"].expected_seconds <= min(plans[m].expected_seconds for m in ("random", "unaware"))
    again = plan_by("aware", p, 12, budget_s=60.0, tries=200)
    assert again.routes == plan_by("aware", p, 12, budget_s=60.0, tries=200).routes
    with pytest.raises(GrainlineError, match="no method 'best'"):
        plan_by("best", p)
    with pytest.raises(GrainlineError, match="microbatches is 0"):
        plan_by("full", p, 0)


def test_groups_go_the_same_way_and_count_for_all_of_theirs() -> None:
    p = spread()  # three micro-batches at each of two data nodes, three slots
    coarse = coarsened(p)
    assert coarse is not None
    assert (coarse.group, coarse.problem.agents, coarse.problem.slots) == (3, 2, 1)
    assert coarse.problem.forward_seconds == pytest.approx([3 * w for w in p.forward_seconds])
    routes = coarse.expanded(random_routes(coarse.problem, 0))
    assert not list(check_routes(p, routes))
    assert coarsened(problem((2, 2, 2), 2, 3, slots=2)) is None


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.integers(0, 9))
def test_without_a_node_its_micro_batches_go_elsewhere(seed: int, lost: int) -> None:
    p = spread(seed)
    routes = random_routes(p, seed)
    left, again = reroute(p, routes, lost)
    assert not list(check_routes(left, again))
    assert not any(lost in route for route in again)
    kept = [route for route in routes if lost not in route]
    assert again[: len(kept)] == tuple(kept)
    assert len(again) >= len(kept)
    judge(schedule_of(left, again, 7), Setting.of(left))


def test_a_stage_of_one_node_cant_lose_it() -> None:
    p = problem((2, 1, 2, 2), 3, 2)
    routes = random_routes(p, 0)
    with pytest.raises(GrainlineError, match="node 2 was the only one to serve stage 1"):
        reroute(p, routes, 2)
    with pytest.raises(GrainlineError, match="node 9 serves no stage"):
        reroute(p, routes, 9)


def sites() -> Cluster:
    """Seven devices at two sites."""
    return Cluster.parse(
        {
            "device_types": [{"name": "G", "kind": "gpu", "flops_per_second": {"float32": 1e12}}],
            "nodes": [
                {"name": name, "count": count, "devices": {"G": 1}, "nics": [{"type": "E", "bytes_per_second": 1e9}]}
                for name, count in (("north", 4), ("south", 3))
            ],
            "switches": [{"name": "n"}, {"name": "s"}],
            "links": [
                {"between": ["north", "n"], "latency_seconds": 1e-4},
                {"between": ["south", "s"], "latency_seconds": 1e-4},
                {"between": ["n", "s"], "latency_seconds": 0.05, "bytes_per_second": 2e7},
            ],
        },
        where="sites",
    )


def test_a_cluster_is_placed_planned_and_told_as_a_document(tmp_path: Path) -> None:
    work = Work((0.3,) * 7, activation_bytes=4e6, gradient_bytes=1e8, hop_seconds=0.01)
    plan = plan_skip(sites(), work, stages=3, nodes_per_stage=(3, 2, 2), path_length=2, slots_per_node=2, budget_s=1.0)
    assert plan.microbatches == 6
    assert not list(check_routes(plan.problem, plan.routes))
    assert sorted(node for nodes in plan.placement for node in nodes) == list(range(7))
    for nodes in plan.placement:  # gradients weigh more than activations: no stage spans both sites
        assert len({node < 4 for node in nodes}) == 1
    far = next((x, y) for x in range(4) for y in range(4, 7))
    near = plan.problem.transfer_seconds[0][1]
    assert plan.problem.transfer_seconds[far[0]][far[1]] == pytest.approx(0.05 + 0.01 + 4e6 / 2e7, rel=1e-2)
    assert near < 0.05
    document = plan.to_plan((2, 1, 1, 1))
    assert document.pipeline is not None
    assert document.pipeline.paths == tuple(tuple(map(tuple, path)) for path in plan.schedule.paths)
    file = tmp_path / "plan.toml"
    document.save(file)
    assert Plan.load(file) == document
    with pytest.raises(GrainlineError, match="a cut of 3 stages for a plan of 3 and the head"):
        plan.to_plan((2, 1, 1))


def test_what_a_cluster_lacks_is_told() -> None:
    with pytest.raises(GrainlineError, match="needs the work"):
        plan_skip(sites())
    with pytest.raises(GrainlineError, match="forward_seconds of 3 devices, and the cluster has 7"):
        plan_skip(sites(), Work((1.0,) * 3, 1.0), stages=3, path_length=2)
    with pytest.raises(GrainlineError, match="names 2 stages, and there are to be 6"):
        plan_skip(sites(), Work((1.0,) * 7, 1.0), nodes_per_stage=(4, 3))
    with pytest.raises(GrainlineError, match="7 nodes can't serve 8 stages"):
        plan_skip(sites(), Work((1.0,) * 7, 1.0), stages=8)


def test_as_many_are_planned_at_once_as_fit() -> None:
    assert planned_at_once((5, 3, 3, 3, 3, 3), 4, 3) == 15  # 45 slots beyond stage 0, three for each
    assert planned_at_once((5, 3, 3, 3, 3, 3), 6, 3) == 9
    assert shared_out(20, 6) == (5, 3, 3, 3, 3, 3)


RECIPE = {
    "model": {"depth": 3},
    "data": {"sequence_length": 32},
    "training": {"steps": 1, "batch_tokens": 256},
    "learning_rate": {"peak": 0.01},
    "precision": {"compute": "float32"},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"microbatches": 5}, "pipeline.microbatches is 5, and pipeline.paths are of 2"),
        ({"vocabulary": "vocab1"}, "leave it out beside paths"),
        ({"placement": [0, 1, 0]}, "paths say it already"),
        ({"starts": [[0.0, 1.0]] * 2}, "can't be: micro-batch 0 has 2 planned starts for 6 visits"),
        ({"paths": [[[0, 0], [3, 1], [2, 0]]] * 2}, "can't be: no micro-batch visits stage 1"),
        ({"paths": [[[0, 0], [1, 1], [1, 0]]] * 2}, "can't be: micro-batch 0 visits a stage twice"),
        ({"paths": [[[0, 0], [1, 7], [2, 0]]] * 2}, "can't be: micro-batch 0 visits stage 1 on rank 7: of 2 ranks"),
    ],
)
def test_paths_that_cant_be_are_told_by_their_key(change: dict[str, object], words: str) -> None:
    paths = [[[0, 0], [1, 1], [2, 0]], [[0, 0], [1, 1], [2, 0]]]
    pipeline = {"ranks": 2, "schedule": "partial", "cut": [2, 1, 1], "paths": paths} | change
    config = config_for_depth(2, 300, 64).model_copy(update={"mtp_depth": 0})
    with pytest.raises(GrainlineError, match=words):
        pipeline_plan(Plan.parse({"pipeline": pipeline}), config, Recipe.parse(RECIPE), sites())


def test_a_plan_of_paths_is_resolved_in_its_order() -> None:
    plan = plan_by("aware", problem((2, 1, 1), 2, 4, slots=2), 8, budget_s=2.0, tries=20).to_plan((2, 1, 1, 1))
    config = config_for_depth(3, 300, 64).model_copy(update={"mtp_depth": 0})
    found = pipeline_plan(plan, config, Recipe.parse(RECIPE), sites())
    assert plan.pipeline is not None
    assert plan.pipeline.paths is not None
    assert [[tuple(hop) for hop in path] for path in found.bare.paths] == [list(path) for path in plan.pipeline.paths]
    assert found.pipeline.microbatches == 8
    validate(found.schedule)
    for rank, actions in enumerate(found.bare.actions):
        kept = [a for a in found.schedule.actions[rank] if a.kind in (Kind.F, Kind.B)]
        assert kept == list(actions)


def test_stages_have_as_many_blocks_or_one_more() -> None:
    config = config_for_depth(7, 300, 64)
    assert blocks_alike(config, 3) == (4, 2, 2, 3)  # embedding with the first; MTP's two cells and the head last
    assert blocks_alike(config.model_copy(update={"mtp_depth": 0}), 7) == (2, 1, 1, 1, 1, 1, 1, 1)
    with pytest.raises(GrainlineError, match="7 blocks, too few for 8 stages"):
        blocks_alike(config, 8)


def test_the_work_of_a_model_is_that_of_its_cells() -> None:
    """A dense model whose blocks are alike, on a device without memory bandwidth: FLOPs over the reached rate."""
    config = dense_twin(config_for_depth(4, 300, 64)).model_copy(update={"mtp_depth": 0})
    batch = MicroBatch(2, 64, "float32")
    work, cut = work_of(config, topology(sites()), batch, 2, hop_seconds=0.1)
    assert cut == (3, 2, 1)
    speed = Speed.of(sites().device_types[0], "float32")
    block = cell_cost(config, cells_of(config)[1], batch, speed)
    head = cell_cost(config, cells_of(config)[-1], batch, speed)
    assert work.forward_seconds == pytest.approx([2 * block.seconds[Kind.F]] * 7)
    assert work.backward_ratio == pytest.approx(block.seconds[Kind.B] / block.seconds[Kind.F])
    assert work.loss_share * work.forward_seconds[0] == pytest.approx(head.seconds[Kind.F] + head.seconds[Kind.B])
    assert work.activation_bytes == 4 * 2 * 64 * config.hidden_size
    assert work.hop_seconds == 0.1
    one, two = (memory.parameters_of_all(config, cells_of(config)[1:3][:n], tables=False) for n in (1, 2))
    assert work.gradient_bytes == 4 * sum(two.values())
    assert sum(two.values()) == 2 * sum(one.values())


def test_where_links_are_shared_the_simulator_chooses() -> None:
    """Two sites with three devices each behind one slow line: what crosses it at once is slow, which routes avoid."""
    work = Work((0.05,) * 7, activation_bytes=4e6, hop_seconds=0.0)
    wires = topology(sites())
    p = problem_for(wires, work, (3, 2, 2), 2, 2, trials=30)
    setting = setting_for(wires, work, p)
    assert setting.shares_links
    plans = {m: plan_by(m, p, 6, setting=setting, budget_s=4.0, tries=60) for m in ("unaware", "aware")}
    assert plans["aware"].expected_seconds <= plans["unaware"].expected_seconds
    blind = plan_by("aware", p, 6, setting=replace(setting, shares_links=False), budget_s=4.0, tries=60)
    assert plans["aware"].expected_seconds <= blind.expected_seconds
    assert blind.expected_seconds > step_seconds(p, blind.routes, 6) - 1e-9  # the plan's own clock is too early


def test_a_plan_that_was_carried_out_can_be_again() -> None:
    """A run writes its plan with all that was decided."""
    plan = plan_by("aware", problem((2, 1, 1), 2, 4, slots=2), 8, budget_s=2.0, tries=20).to_plan((2, 1, 1, 1))
    config = config_for_depth(3, 300, 64).model_copy(update={"mtp_depth": 0})
    first = pipeline_plan(plan, config, Recipe.parse(RECIPE), sites())
    again = pipeline_plan(plan.model_copy(update={"pipeline": first.pipeline}), config, Recipe.parse(RECIPE), sites())
    assert again.schedule == first.schedule
    assert again.pipeline == first.pipeline
