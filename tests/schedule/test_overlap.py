"""Overlaps: every tile once and none too early, for any counts; and the checker refuses what is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import GrainlineError
from grainline.schedule import ScheduleError
from grainline.schedule.overlap import (
    OVERLAPS,
    ExpertLayer,
    Options,
    TileDevice,
    TilePlan,
    TileShape,
    What,
    check,
    check_times,
    lower,
    serial,
    simulate_tiles,
    spent,
    tile_order,
)
from grainline.schedule.overlap.place import place, seconds_of
from grainline.schedule.overlap.termination import Termination

DEVICE = TileDevice(5, 1e9, 1e7, memory_bytes_per_second=1e9, launch_seconds=1e-6)


@st.composite
def layers(draw: st.DrawFn) -> ExpertLayer:
    sources, experts = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    some = st.integers(0, 9) | st.just(0)
    rows = tuple(tuple(draw(some) for _ in range(experts)) for _ in range(sources))
    return ExpertLayer(rows, draw(st.integers(1, 11)), draw(st.integers(1, 11)), draw(st.integers(0, sources - 1)))


@st.composite
def options(draw: st.DrawFn) -> Options:
    tile = TileShape(draw(st.integers(1, 6)), draw(st.integers(1, 5)))
    return Options(
        tile, draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(0, 3)), draw(st.integers(0, 3))
    )


@pytest.mark.parametrize("name", OVERLAPS)
@settings(max_examples=60, deadline=None)
@given(layer=layers(), chosen=options())
def test_any_counts_make_a_list_that_computes_the_layer(name: str, layer: ExpertLayer, chosen: Options) -> None:
    plan = OVERLAPS[name](layer, chosen)
    check(plan)
    placed = place(plan, DEVICE)
    check_times(plan, placed.start, placed.end)
    for task in ("DISPATCH", "RETURN"):
        moved = sum(plan.bytes_of(i) for i, one in enumerate(plan.tasks) if one.what is What[task])
        assert moved == layer.exchange_bytes


@pytest.mark.parametrize("name", OVERLAPS)
@settings(max_examples=40, deadline=None)
@given(layer=layers(), chosen=options())
def test_the_simulator_plays_what_was_placed(name: str, layer: ExpertLayer, chosen: Options) -> None:
    plan = OVERLAPS[name](layer, chosen)
    placed = place(plan, DEVICE)
    timeline = simulate_tiles(plan, DEVICE)
    assert timeline.start == pytest.approx([placed.start[i] for i in placed.order], abs=1e-12)
    assert timeline.end == pytest.approx([placed.end[i] for i in placed.order], abs=1e-12)
    assert sorted(placed.order) == list(range(len(plan)))
    for i, task in enumerate(plan.tasks):  # one after another at each place, and tiles at workers' alone
        assert (placed.place[i] < DEVICE.workers) == (task.what in (What.UP, What.DOWN, What.COMBINE))
        assert placed.end[i] - placed.start[i] == pytest.approx(seconds_of(plan, i, DEVICE))


@settings(max_examples=80, deadline=None)
@given(layer=layers(), chosen=options())
def test_sources_of_tiles_equal_brute_force(layer: ExpertLayer, chosen: Options) -> None:
    plan = tile_order(layer, chosen)
    arrives = {task.source: i for i, task in enumerate(plan.tasks) if task.what is What.DISPATCH}
    expected: Counter[tuple[int, int, int, frozenset[int]]] = Counter()
    for expert in range(layer.experts):
        rows = [source for source in layer.arrival for _ in range(layer.rows_WE[source][expert])]
        for m in range(-(-len(rows) // chosen.tile.rows)):
            mine = rows[m * chosen.tile.rows : (m + 1) * chosen.tile.rows]
            for n in range(-(-layer.hidden // chosen.tile.columns)):
                expected[expert, m, n, frozenset(arrives[source] for source in mine)] += 1
    ups = [task for task in plan.tasks if task.what is What.UP]
    assert Counter((t.expert, t.m, t.n, frozenset(t.needs)) for t in ups) == expected
    assert [t.stage for t in ups] == sorted(t.stage for t in ups)


def test_own_rows_come_first_and_late_ones_hold_nobody_up() -> None:
    layer = ExpertLayer(((4, 4), (4, 4), (4, 4)), 4, 8, rank=1)
    ups = [task for task in tile_order(layer, Options(TileShape(4, 8))).tasks if task.what is What.UP]
    assert [(task.source, task.expert) for task in ups] == [(1, 0), (1, 1), (2, 0), (2, 1), (0, 0), (0, 1)]
    crossing = [task for task in tile_order(layer, Options(TileShape(6, 8))).tasks if task.what is What.UP]
    assert [(task.stage, task.expert, task.m) for task in crossing] == [(1, 0, 0), (1, 1, 0), (2, 0, 1), (2, 1, 1)]


def test_the_checker_refuses_lists_with_one_thing_wrong() -> None:
    layer = ExpertLayer(((3, 2), (2, 4)), 5, 6)
    for make in OVERLAPS.values():
        plan = make(layer, Options(TileShape(2, 3)))
        for what in (What.UP, What.DOWN, What.RETURN, What.COMBINE):
            at = max(i for i, task in enumerate(plan.tasks) if task.what is what)
            cases = {
                "is done 0 times": replace(plan.tasks[at], columns=(0, 0)),
                "wait": replace(plan.tasks[at], needs=()),
            }
            for words, broken in cases.items():
                with pytest.raises(ScheduleError, match=words):
                    check(replace(plan, tasks=(*plan.tasks[:at], broken, *plan.tasks[at + 1 :])))
            with pytest.raises(ScheduleError, match="is done 2 times"):
                check(replace(plan, tasks=(*plan.tasks, plan.tasks[at])))
        first = next(i for i, task in enumerate(plan.tasks) if task.needs)
        with pytest.raises(ScheduleError, match="stands before what it waits for"):
            check(replace(plan, tasks=(plan.tasks[first], *plan.tasks)))
        at = next(i for i, piece in enumerate(plan.pieces) if (piece.source, piece.expert) == (1, 1) and piece.rows)
        fewer = plan.pieces[at]._replace(rows=plan.pieces[at].rows - 1)
        with pytest.raises(ScheduleError, match=r"of source 1 for expert 1 (are|is) packed"):
            check(replace(plan, pieces=(*plan.pieces[:at], fewer, *plan.pieces[at + 1 :])))


def test_tiles_out_of_order_are_refused() -> None:
    plan = tile_order(ExpertLayer(((2,), (2,)), 4, 4), Options(TileShape(2, 4)))
    ups = [i for i, task in enumerate(plan.tasks) if task.what is What.UP]
    swapped = list(plan.tasks)
    swapped[ups[0]], swapped[ups[1]] = swapped[ups[1]], swapped[ups[0]]
    with pytest.raises(ScheduleError, match=r"up \(expert 0.*stands after one of stage 1"):
        check(replace(plan, tasks=tuple(swapped)))


def test_a_task_that_begins_early_is_found() -> None:
    plan = serial(ExpertLayer(((2,), (2,)), 4, 4), Options(TileShape(2, 4)))
    placed = place(plan, DEVICE)
    early = list(placed.start)
    early[-1] = 0.0
    with pytest.raises(ScheduleError, match="before return"):
        check_times(plan, early, placed.end)


@settings(max_examples=60, deadline=None)
@given(layer=layers(), chosen=options(), seed=st.integers(0, 99))
def test_made_scheduled_done_and_the_bound_agree(layer: ExpertLayer, chosen: Options, seed: int) -> None:
    plan = OVERLAPS["fused"](layer, chosen)
    tiles = Counter(task.what in (What.UP, What.DOWN, What.COMBINE) for task in plan.tasks)[True]
    blocks = sum(-(-rows // chosen.tile.rows) for counts in layer.rows_WE for rows in counts)
    account = Termination(layer.sources, layer.experts, layer.width, layer.hidden, chosen.tile, 16, blocks)
    account.made = account.scheduled = account.done = tiles
    for source in np.random.default_rng(seed).permutation(layer.sources).tolist():
        assert not account.finished
        assert account.bound >= tiles
        account.signal(source, layer.rows_WE[source])
    assert account.finished
    assert account.bound == tiles


def test_signals_that_cannot_be_are_refused() -> None:
    account = Termination(2, 1, 4, 4, TileShape(2, 2), 4, 0)
    with pytest.raises(GrainlineError, match="source 0 has 5 rows for expert 0, of 4 at most"):
        account.signal(0, (5,))
    account = Termination(2, 1, 4, 4, TileShape(2, 2), 4, 0)
    account.signal(1, (0,))
    with pytest.raises(GrainlineError, match="signalled twice"):
        account.signal(1, (0,))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_what_is_hidden_follows_the_closed_form(groups: int) -> None:
    """Bound by compute, the first product hides all and the second leaves a group's results: 1 − 1/(2g)."""
    layer = ExpertLayer(((64,),) * 8, 256, 2048)
    device = TileDevice(8, 1e9, 1e7)  # 8 × 8 row tiles; a column of tiles is one wave
    plan = tile_order(layer, Options(TileShape(64, 64), groups=groups))
    found = spent(plan, serial(layer, Options(TileShape(64, 64))), device)
    assert found.hidden == pytest.approx(1 - 1 / (2 * groups), abs=1e-9)


def test_unsorted_rows_hide_nothing_of_the_first_product() -> None:
    layer = ExpertLayer(((1,),) * 8, 64, 64)  # one tile that needs every source
    plan = tile_order(layer, Options(TileShape(8, 64)))
    first = next(i for i, task in enumerate(plan.tasks) if task.what is What.UP)
    assert len(plan.tasks[first].needs) == 8
    assert place(plan, DEVICE).start[first] == pytest.approx(layer.exchange_bytes / DEVICE.link_bytes_per_second)


def test_bad_input_is_named() -> None:
    for rows in ((), ((),), ((1,), (1, 2))):
        with pytest.raises(GrainlineError, match="as many counts from each source"):
            ExpertLayer(rows, 4, 4)
    with pytest.raises(GrainlineError, match="source 1 has -1 rows for expert 0"):
        ExpertLayer(((1,), (-1,)), 4, 4)
    with pytest.raises(GrainlineError, match="rank 2 is none of the 2 sources"):
        ExpertLayer(((1,), (1,)), 4, 4, rank=2)
    with pytest.raises(GrainlineError, match="width is 1 or more"):
        ExpertLayer(((1,),), 0, 4)
    with pytest.raises(GrainlineError, match="groups = 0: must be 1 or more"):
        Options(groups=0)
    with pytest.raises(GrainlineError, match="tile 0x4"):
        Options(TileShape(0, 4))
    with pytest.raises(GrainlineError, match="link_bytes_per_second is above 0"):
        TileDevice(4, 1e9, 0.0)
    with pytest.raises(GrainlineError, match="0 workers"):
        TileDevice(0, 1e9, 1.0)
    with pytest.raises(GrainlineError, match="5 of 5 workers communicate"):
        place(tile_order(ExpertLayer(((1,),), 4, 4), Options(comm_workers=5)), DEVICE)


def test_rows_of_the_picture_are_workers_link_and_host() -> None:
    plan: TilePlan = tile_order(ExpertLayer(((2,), (2,)), 4, 4), Options(TileShape(2, 2)))
    assert lower(plan, DEVICE).streams == (*(f"worker {i}" for i in range(5)), "link", "host")
    timeline = simulate_tiles(plan, DEVICE)
    assert [timeline.row(i) for i in (0, 5)] == ["worker 0", "link"]
    assert timeline.link_bytes["link"] == 2 * plan.layer.exchange_bytes
