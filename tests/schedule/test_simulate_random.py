"""simulate on random graphs: both engines alike, and what holds of every run."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schedule.graphs import T, graph_of, graphs

from grainline.schedule import (
    SCHEDULES,
    Kind,
    Network,
    ScheduleError,
    TaskGraph,
    add_messages,
    equal_costs,
    lower,
    make_schedule,
    perturb,
    simulate,
)
from grainline.schedule.passes.update import add_update
from grainline.schedule.simulator import engine as engines
from grainline.schedule.simulator.graph import Link


@pytest.mark.skipif(not engines.is_compiled(), reason="the compiled core isn't built")
@settings(max_examples=400, deadline=None)
@given(graphs())
def test_both_engines_say_the_same(graph: TaskGraph) -> None:
    reference, compiled = engines.play_python(graph), engines.play_compiled(graph)
    np.testing.assert_allclose(compiled.start, reference.start, rtol=1e-9, atol=0)
    np.testing.assert_allclose(compiled.end, reference.end, rtol=1e-9, atol=0)
    assert compiled.effects.tolist() == reference.effects.tolist()


@pytest.mark.skipif(not engines.is_compiled(), reason="the compiled core isn't built")
@pytest.mark.parametrize("name", SCHEDULES)
def test_both_engines_say_the_same_of_real_schedules(name: str) -> None:
    schedule = add_update(add_messages(make_schedule(name, 4, 8), lookahead=2), [0, 1])
    costs = replace(
        equal_costs(1.0, 2.0, output_bytes=2.0, kept_bytes=1.0),
        collective_bytes={Kind.REDUCE: 7.0},
        static_bytes={0: 3.0},
    )
    network = Network.uniform(4, latency_seconds=0.1, bytes_per_second=3.0)
    unbounded = simulate(lower(schedule, costs, network))
    room = {rank: float(peak) for rank, peak in enumerate(unbounded.peak_bytes())}
    graph = perturb(lower(schedule, costs, network, capacity_bytes=room, overlap_speed=0.8), seed=1, jitter=0.2)
    reference, compiled = engines.play_python(graph), engines.play_compiled(graph)
    np.testing.assert_allclose(compiled.end, reference.end, rtol=1e-9, atol=0)
    assert compiled.effects.tolist() == reference.effects.tolist()


def longest_path(graph: TaskGraph, seconds: np.ndarray) -> np.ndarray:
    """When each task ends at the earliest: by stream order and needs alone."""
    end = np.zeros(len(graph))
    last: dict[int, float] = {}
    for task in range(len(graph)):  # needs point back
        begin = max([last.get(int(graph.stream[task]), 0.0), *end[graph.needs[task]].tolist()])
        end[task] = last[int(graph.stream[task])] = begin + seconds[task]
    return end


@settings(max_examples=200, deadline=None)
@given(graphs(links=0, tiers=0, interference=0))
def test_without_sharing_the_longest_path_decides(graph: TaskGraph) -> None:
    np.testing.assert_allclose(simulate(graph).end, longest_path(graph, graph.seconds), rtol=1e-12)


def alone(graph: TaskGraph) -> np.ndarray:
    """Seconds of each task if it has its links for itself."""
    found = graph.seconds.copy()
    for task in range(len(graph)):
        if graph.bytes[task] > 0 and len(graph.crosses[task]):
            links, times = np.unique(graph.crosses[task], return_counts=True)
            rates = np.array([graph.links[link].bytes_per_second for link in links]) / times
            found[task] += graph.bytes[task] / rates.min()
    return found


@settings(max_examples=200, deadline=None)
@given(graphs(tiers=0, interference=0))
def test_sharing_is_never_faster_than_having_everything_alone(graph: TaskGraph) -> None:
    found = simulate(graph)
    assert (found.end >= longest_path(graph, alone(graph)) * (1 - 1e-9)).all()
    for link, moved in found.link_bytes.items():
        rate = next(one.bytes_per_second for one in graph.links if one.name == link)
        assert found.makespan * rate >= moved * (1 - 1e-9)


@settings(max_examples=200, deadline=None)
@given(graphs(tiers=0, interference=0))
def test_nothing_idles_that_could_work(graph: TaskGraph) -> None:
    """Each task starts at the end of something that it waited for: its stream's last task, or one that it needs."""
    found = simulate(graph)
    last: dict[int, int] = {}
    for task in range(len(graph)):
        waited = [*graph.needs[task].tolist(), *([last[int(graph.stream[task])]] if graph.stream[task] in last else [])]
        assert found.start[task] == max((found.end[other] for other in waited), default=0.0)
        last[int(graph.stream[task])] = task


def rates_by_bisection(flows: list[tuple[int, ...]], capacity: list[float]) -> list[float]:
    """Max–min fair rates by their definition: raise all together, and stop whoever is on a link that is full."""
    rate, stopped = [0.0] * len(flows), [False] * len(flows)
    while not all(stopped):
        low, high = 0.0, max(capacity)
        for _ in range(200):
            step = (low + high) / 2
            trial = [r + (0.0 if s else step) for r, s in zip(rate, stopped, strict=True)]
            used = [sum(t * f.count(link) for t, f in zip(trial, flows, strict=True)) for link in range(len(capacity))]
            low, high = (step, high) if all(u <= c for u, c in zip(used, capacity, strict=True)) else (low, step)
        rate = [r + (0.0 if s else low) for r, s in zip(rate, stopped, strict=True)]
        used = [sum(r * f.count(link) for r, f in zip(rate, flows, strict=True)) for link in range(len(capacity))]
        full = {link for link, c in enumerate(capacity) if used[link] >= c * (1 - 1e-9)}
        stopped = [s or any(link in full for link in f) for s, f in zip(stopped, flows, strict=True)]
    return rate


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), min_size=1, max_size=6),
    st.lists(st.sampled_from([1.0, 2.0, 5.0, 7.5]), min_size=4, max_size=4),
)
def test_the_first_flow_to_end_had_its_max_min_share(flows: list[tuple[int, ...]], capacity: list[float]) -> None:
    rates = rates_by_bisection(flows, capacity)
    for flow, links in enumerate(flows):  # the others have bytes for ever, so shares stay what they are
        tasks = [T(i, bytes=1.0 if i == flow else 1e6, links=f) for i, f in enumerate(flows)]
        assert simulate(graph_of(tasks, capacity)).end[flow] == pytest.approx(1.0 / rates[flow], rel=1e-6), links


@settings(max_examples=100, deadline=None)
@given(graphs(tiers=0), st.sampled_from([0.125, 3.0, 1000.0]))
def test_slower_all_over_is_slower_by_as_much(graph: TaskGraph, c: float) -> None:
    links = tuple(Link(link.name, link.bytes_per_second / c) for link in graph.links)
    slower = simulate(replace(graph, seconds=graph.seconds * c, links=links))
    assert slower.makespan == pytest.approx(simulate(graph).makespan * c, rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_capacity_is_never_exceeded_and_memory_adds_up(graph: TaskGraph) -> None:
    if not engines.play(graph).done.all():
        with pytest.raises(ScheduleError, match="when nothing is left that could free any"):
            simulate(graph)
        return
    found = simulate(graph)
    for tier, series in enumerate(found.memory):
        assert series.peak_bytes <= (graph.tiers[tier].capacity_bytes or np.inf) * (1 + 1e-9)
        mine = graph.memory.tier == tier
        left = graph.memory.start_bytes[mine].sum() + graph.memory.end_bytes[mine].sum()
        assert series.bytes[-1] == pytest.approx(left, abs=1e-9)
        assert (np.diff(series.seconds) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(graphs(links=0, interference=0))
def test_no_task_waits_for_room_that_is_there(graph: TaskGraph) -> None:
    """Whoever starts later than its stream and needs allow was short of room at all times between."""
    try:
        found = simulate(graph)
    except ScheduleError:
        return
    rows = {int(t): np.flatnonzero(graph.memory.task == t) for t in range(len(graph))}
    last: dict[int, int] = {}
    for task in range(len(graph)):
        waited = [*graph.needs[task].tolist(), *([last[int(graph.stream[task])]] if graph.stream[task] in last else [])]
        ready = max((found.end[other] for other in waited), default=0.0)
        last[int(graph.stream[task])] = task
        instants = sorted({*found.start.tolist(), *found.end.tolist()})
        for instant, after in itertools.pairwise(i for i in instants if ready <= i <= found.start[task]):
            assert after > instant
            short = False
            for row in rows[task]:
                series = found.memory[graph.memory.tier[row]]
                held = series.bytes[np.searchsorted(series.seconds, instant, side="right") - 1]
                capacity = graph.tiers[graph.memory.tier[row]].capacity_bytes or np.inf
                wanted = graph.memory.start_bytes[row]
                short |= bool(wanted > 0 and held + wanted > capacity * (1 - 1e-9))
            assert short


def test_jitter_is_seeded_and_of_mean_one() -> None:
    graph = graph_of([T(0, 1.0) for _ in range(4000)])
    noisy = perturb(graph, seed=3, jitter=0.2)
    assert noisy.seconds.tolist() == perturb(graph, seed=3, jitter=0.2).seconds.tolist()
    assert noisy.seconds.tolist() != perturb(graph, seed=4, jitter=0.2).seconds.tolist()
    assert np.log(noisy.seconds).std() == pytest.approx(0.2, rel=0.05)
    assert noisy.seconds.mean() == pytest.approx(1.0, rel=0.02)  # 0.2/√4000 = 0.3 %
    assert graph.seconds.tolist() == [1.0] * 4000
    assert perturb(graph, seed=3).seconds.tolist() == [1.0] * 4000


def test_a_slow_rank_is_slow_by_its_factor() -> None:
    graph = graph_of([T(0, 1.0), T(1, 1.0), T(1, 2.0)])
    assert perturb(graph, seed=0, slow={1: 1.5}).seconds.tolist() == [1.0, 1.5, 3.0]


@pytest.mark.parametrize(
    ("jitter", "slow", "message"),
    [
        (-0.1, {}, "a jitter of -0.1: must be 0 or more"),
        (float("nan"), {}, "a jitter of nan"),
        (0.0, {1: -2.0}, "rank 1 takes -2.0 times as long"),
        (0.0, {2: 2.0}, "there is no rank 2 to be slow: 2 ranks"),
    ],
)
def test_perturbations_that_mean_nothing(jitter: float, slow: dict[int, float], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        perturb(graph_of([T(0, 1.0), T(1, 1.0)]), seed=0, jitter=jitter, slow=slow)
