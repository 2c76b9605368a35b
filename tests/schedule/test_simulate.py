"""simulate against what follows by hand: streams, links, memory, interference, and the errors. Both engines."""

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
from tests.schedule.graphs import T, graph_of

from grainline.schedule import ScheduleError, simulate
from grainline.schedule.simulator import engine as engines
from grainline.schedule.simulator.graph import Ragged


@pytest.fixture(params=["python", "compiled"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "compiled" and not engines.is_compiled():
        pytest.skip("the compiled core isn't built")
    play = engines.play_python if request.param == "python" else engines.play_compiled
    monkeypatch.setattr(importlib.import_module("grainline.schedule.simulator.simulate"), "play", play)


def test_a_stream_works_in_order_and_waits_for_needs() -> None:
    found = simulate(graph_of([T(0, 1.0), T(1, 5.0), T(0, 2.0, needs=(1,)), T(0, 1.0)]))
    assert found.start.tolist() == [0.0, 0.0, 5.0, 7.0]  # the last could run earlier, and must not
    assert found.end.tolist() == [1.0, 5.0, 7.0, 8.0]
    assert found.makespan == 8.0
    assert found.how == "simulated"


def test_two_flows_on_a_link_get_half_each() -> None:
    # 10 bytes a second: both get 5 until the shorter one's 10 bytes are over at 2 s; 10 of the other's are then left.
    found = simulate(graph_of([T(0, bytes=10, links=(0,)), T(1, bytes=20, links=(0,))], links=[10.0]))
    assert found.end.tolist() == [2.0, 3.0]
    assert found.link_bytes == {"l0": 30.0}


def test_latency_comes_before_the_bytes_and_shares_nothing() -> None:
    found = simulate(graph_of([T(0, 1.0, bytes=10, links=(0,)), T(1, bytes=10, links=(0,))], links=[10.0]))
    assert found.end.tolist() == [2.0, 1.0]  # the second is through when the first one's latency is over


def test_three_flows_share_two_links_max_min() -> None:
    # Link 0 carries 12, link 1 carries 30. Flow a crosses both, b the first, c the second: a and b get 6, c gets 24.
    tasks = [T(0, bytes=12, links=(0, 1)), T(1, bytes=18, links=(0,)), T(2, bytes=72, links=(1,))]
    found = simulate(graph_of(tasks, links=[12.0, 30.0]))
    # a ends at 2 s; then b has 6 left at 12 a second, c has 24 left at 30 a second.
    assert found.end == pytest.approx([2.0, 2.5, 2.8], rel=1e-12)
    assert found.link_bytes == {"l0": 30.0, "l1": 84.0}


def test_the_narrowest_link_of_a_route_decides_and_leaves_the_rest_to_others() -> None:
    tasks = [T(0, bytes=4, links=(0, 1)), T(1, bytes=16, links=(1,))]
    assert simulate(graph_of(tasks, links=[2.0, 10.0])).end.tolist() == [2.0, 2.0]


def test_a_link_that_is_named_twice_is_crossed_twice() -> None:
    found = simulate(graph_of([T(0, bytes=10, links=(0, 0))], links=[10.0]))
    assert found.end.tolist() == [2.0]
    assert found.link_bytes == {"l0": 20.0}


def test_flows_of_other_links_are_left_alone() -> None:
    tasks = [T(0, bytes=10, links=(0,)), T(1, 1.0, bytes=10, links=(1,)), T(2, 1.0)]
    assert simulate(graph_of(tasks, links=[3.0, 3.0])).end == pytest.approx([10 / 3, 1 + 10 / 3, 1.0], rel=1e-15)


def test_a_busy_stream_slows_another() -> None:
    # At half speed while s1 works: 2 of 3 seconds' work are left at 2 s.
    found = simulate(graph_of([T(0, 3.0), T(1, 2.0)], interference=[(0, "s1", 0.5)]))
    assert found.end.tolist() == [4.0, 2.0]


def test_slowdowns_multiply() -> None:
    found = simulate(graph_of([T(0, 1.0), T(1, 8.0), T(2, 8.0)], interference=[(0, "s1", 0.5), (0, "s2", 0.25)]))
    assert found.end.tolist() == [8.0, 8.0, 8.0]


def test_a_busy_link_slows_a_stream_but_latency_does_not() -> None:
    found = simulate(graph_of([T(0, 3.0), T(1, 1.0, bytes=1, links=(0,))], [1.0], interference=[(0, "l0", 0.5)]))
    assert found.end.tolist() == [3.5, 2.0]


def test_a_flow_that_is_slowed_keeps_its_share() -> None:
    tasks = [T(0, bytes=10, links=(0,)), T(1, bytes=10, links=(0,)), T(2, 2.0)]
    found = simulate(graph_of(tasks, links=[10.0], interference=[(0, "s2", 0.5)]))
    # Half of 5 a second for 2 s; then all that is left, 5 bytes, at 10 a second, as the other flow has ended.
    assert found.end.tolist() == [2.5, 2.0, 2.0]


def test_memory_over_time() -> None:
    tasks = [
        T(0, 1.0, memory=((0, 5.0, 0.0),)),
        T(0, 1.0, memory=((0, 3.0, -3.0),)),
        T(0, 1.0, memory=((0, 0.0, -5.0),)),
    ]
    (series,) = simulate(graph_of(tasks, tiers=[None], base=[2.0])).memory
    assert series.seconds.tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert series.bytes.tolist() == [2.0, 7.0, 10.0, 7.0, 2.0]
    assert series.peak_bytes == 10.0


def test_a_task_waits_for_room_and_holds_up_its_stream() -> None:
    tasks = [
        T(0, 3.0, memory=((0, 6.0, -6.0),)),
        T(1, 1.0, memory=((0, 6.0, -6.0),)),  # 6 + 6 > 10: from 3 s on
        T(1, 1.0),  # would have room
        T(2, 1.0, memory=((0, 4.0, -4.0),)),  # fits beside the first
    ]
    found = simulate(graph_of(tasks, tiers=[10.0]))
    assert found.start.tolist() == [0.0, 3.0, 4.0, 0.0]


def test_who_waited_longest_for_room_gets_it() -> None:
    holds = T(0, 3.0, memory=((0, 10.0, -10.0),))
    tasks = [holds, T(1, 1.0), T(2, 2.0), T(2, 1.0, memory=((0, 10.0, -10.0),)), T(1, 1.0, memory=((0, 10.0, -10.0),))]
    assert simulate(graph_of(tasks, tiers=[10.0])).start.tolist() == [0.0, 0.0, 0.0, 4.0, 3.0]


def test_who_waits_comes_before_who_becomes_ready() -> None:
    full = ((0, 10.0, -10.0),)
    tasks = [T(0, 3.0, memory=full), T(1, 3.0), T(1, 1.0, memory=full), T(2, 1.0), T(2, 1.0, memory=full)]
    assert simulate(graph_of(tasks, tiers=[10.0])).start.tolist() == [0.0, 0.0, 4.0, 0.0, 3.0]


def test_what_ends_at_an_instant_frees_before_others_take() -> None:
    tasks = [T(0, 1.0, memory=((0, 10.0, -10.0),)), T(1, 1.0), T(1, 1.0, memory=((0, 10.0, -10.0),))]
    found = simulate(graph_of(tasks, tiers=[10.0]))
    assert found.start.tolist() == [0.0, 0.0, 1.0]
    assert found.memory[0].peak_bytes == 10.0


def test_a_start_may_free_too() -> None:
    tasks = [
        T(0, 1.0, memory=((0, 8.0, 0.0),)),
        T(1, 1.0, memory=((0, 8.0, 0.0),)),
        T(0, 5.0, memory=((0, -8.0, 0.0),)),
    ]
    assert simulate(graph_of(tasks, tiers=[10.0])).start.tolist() == [0.0, 1.0, 1.0]


def test_tasks_without_time_run_through_at_once() -> None:
    found = simulate(graph_of([T(0), T(1, needs=(0,), bytes=5.0), T(0, needs=(1,)), T(1, 1.0, needs=(2,))]))
    assert found.start.tolist() == [0.0, 0.0, 0.0, 0.0]
    assert found.makespan == 1.0


def test_nothing_to_do() -> None:
    found = simulate(graph_of([], tiers=[5.0], base=[3.0]))
    assert (found.makespan, found.ranks, found.memory[0].peak_bytes) == (0.0, 0, 3.0)


def test_no_room_ever_says_who_wants_what_where() -> None:
    tasks = [T(0, 1.0, memory=((0, 6.0, 0.0),)), T(0, 1.0, memory=((0, 5_000.0, 0.0),))]
    with pytest.raises(ScheduleError, match=r"task 1 \(rank 0: F0.1\) wants 5,000 bytes of t0, which holds 6 of 100 "):
        simulate(graph_of(tasks, tiers=[100.0]))


def test_tasks_that_wait_for_each_other_are_named() -> None:
    tasks = [T(0, 1.0, needs=(3,)), T(0, 1.0), T(1, 1.0, needs=(1,)), T(1, 1.0), T(2, 1.0)]
    with pytest.raises(ScheduleError) as caught:
        simulate(graph_of(tasks))
    ring = "task 0 (rank 0: F0.0), which waits for task 3 (rank 1: F0.3), which waits for task 2 (rank 1: F0.2), which"
    assert f"tasks wait for each other: {ring} waits for task 1 (rank 0: F0.1), which waits for task 0" in str(
        caught.value
    )


def test_a_task_that_waits_for_itself_is_named() -> None:
    with pytest.raises(
        ScheduleError, match=r"wait for each other: task 1 \(rank 0: F0.1\), which waits for task 1 \(rank 0: F0.1\) \("
    ):
        simulate(graph_of([T(0, 1.0), T(0, 1.0, needs=(1,))]))


GOOD = graph_of([T(0, 1.0, memory=((0, 1.0, -1.0),)), T(1, 1.0, needs=(0,), bytes=1.0, links=(0,))], [1.0], [5.0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"seconds": np.array([1.0, -1.0])},
            r"task 1 \(rank 1: F0.1\) has -1.0 seconds: must be 0 or more, and finite",
        ),
        ({"seconds": np.array([math.nan, 1.0])}, r"task 0 .* has nan seconds"),
        ({"seconds": np.array([math.inf, 1.0])}, r"task 0 .* has inf seconds"),
        ({"seconds": np.array([1.0])}, "`seconds` is of 1 tasks, `stream` of 2"),
        ({"bytes": np.array([0.0, math.nan])}, r"task 1 .* has nan bytes"),
        ({"stream": np.array([0, 2], np.int32)}, r"task 1 .* is on stream 2, of 2"),
        ({"rank": np.array([0, -1], np.int32)}, r"task 1 .* is on rank -1"),
        ({"needs": Ragged.of([(), (2,)])}, r"task 1 .* needs task 2, of 2"),
        ({"needs": Ragged.of([(), (-1,)])}, r"task 1 .* needs task -1, of 2"),
        ({"needs": Ragged(np.array([0, 2, 1], np.int32), np.array([0], np.int32))}, "`needs` has offsets"),
        ({"crosses": Ragged.of([(), (1,)])}, r"task 1 .* crosses link 1, of 1"),
        ({"base_bytes": np.array([6.0])}, "t0 holds 6 bytes from the beginning, and has room for 5"),
        ({"base_bytes": np.array([math.nan])}, "t0 holds nan bytes from the beginning"),
        ({"base_bytes": np.zeros(2)}, "`base_bytes` is of 2 tiers, of 1"),
        ({"links": graph_of([], [0.0]).links}, "link 'l0' carries 0.0 bytes per second: must be above 0"),
        ({"links": graph_of([], [math.inf]).links}, "link 'l0' carries inf bytes per second"),
        ({"memory": replace(GOOD.memory, task=np.array([2], np.int32))}, "`memory` names task 2, of 2"),
        ({"memory": replace(GOOD.memory, tier=np.array([1], np.int32))}, r"task 0 .* takes memory of tier 1, of 1"),
        ({"memory": replace(GOOD.memory, end_bytes=np.array([2.0]))}, r"task 0 .* takes 2 bytes at its end"),
        ({"memory": replace(GOOD.memory, start_bytes=np.array([math.nan]))}, r"task 0 .* takes nan, -1.0 bytes"),
        ({"memory": graph_of([T(memory=((0, 1, 0), (0, 2, 0)))], (), [5.0]).memory}, "two rows of one task and tier"),
        ({"interference": graph_of([], interference=[(2, "s0", 0.5)]).interference}, "with stream 2, of 2"),
        ({"interference": graph_of([], interference=[(0, "x", 0.5)]).interference}, "by 'x': no streams and links"),
        ({"interference": graph_of([], interference=[(0, "s0", 0.0)]).interference}, "leaves a speed of 0.0"),
    ],
)
def test_columns_that_do_not_hold_are_named(wrong: dict[str, object], message: str) -> None:
    simulate(GOOD)
    with pytest.raises(ScheduleError, match=message):
        simulate(replace(GOOD, **wrong))  # type: ignore[arg-type]
