"""Cuts against brute force, against Ling 2.0's own figures, and where they are impossible."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.schedule.cells import Cell
from grainline.schedule.cut import DoesNotFit, cut, described, equal_cut
from grainline.schedule.dependencies import ScheduleError

Sizes = tuple[int, ...]
times = st.integers(0, 9).map(float)


def _all_cuts(cells: int, stages: int) -> Iterator[Sizes]:
    for ends in itertools.combinations_with_replacement(range(cells + 1), stages - 1):
        whole = (0, *ends, cells)
        yield tuple(b - a for a, b in itertools.pairwise(whole))


def _spans(sizes: Sizes) -> list[range]:
    ends = list(itertools.accumulate(sizes))
    return [range(end - n, end) for n, end in zip(sizes, ends, strict=True)]


def _stages(sizes: Sizes, seconds: list[list[float]], placement: Sizes) -> list[float]:
    return [sum(seconds[rank][c] for c in span) for rank, span in zip(placement, _spans(sizes), strict=True)]


def _ranks(values: list[float], placement: Sizes, ranks: int) -> list[float]:
    return [sum(v for v, rank in zip(values, placement, strict=True) if rank == r) for r in range(ranks)]


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], Sizes]:
    """Seconds by rank and cell, of unlike ranks, and a placement that uses all ranks."""
    ranks, chunks = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    cells = draw(st.integers(ranks, 8 if ranks * chunks <= 4 else 5))
    seconds = [draw(st.lists(times, min_size=cells, max_size=cells)) for _ in range(ranks)]
    placement = tuple(range(ranks)) * chunks
    if chunks == 2 and draw(st.booleans()):
        placement = (*range(ranks), *reversed(range(ranks)))
    return seconds, placement


@settings(max_examples=100, deadline=None)
@given(problems())
def test_no_cut_is_better(problem: tuple[list[list[float]], Sizes]) -> None:
    seconds, placement = problem
    found = cut(seconds, placement)
    assert found.is_optimal
    assert sum(found.cells) == len(seconds[0])
    ranks = len(seconds)
    stages = {sizes: _stages(sizes, seconds, placement) for sizes in _all_cuts(len(seconds[0]), len(placement))}
    if len(placement) == ranks:
        best = min(sorted(of, reverse=True) for of in stages.values())
        assert sorted(found.stage_seconds, reverse=True) == best
    else:
        best_pair = min((max(_ranks(of, placement, ranks)), max(of)) for of in stages.values())
        assert (max(found.rank_seconds), max(found.stage_seconds)) == best_pair
    assert list(found.stage_seconds) == stages[found.cells]


@settings(max_examples=100, deadline=None)
@given(problems(), st.data())
def test_no_cut_that_fits_is_better(problem: tuple[list[list[float]], Sizes], data: st.DataObject) -> None:
    seconds, placement = problem
    cells, ranks = len(seconds[0]), len(seconds)
    weight = data.draw(st.lists(st.integers(0, 5), min_size=cells, max_size=cells))
    room = data.draw(st.lists(st.integers(0, 12), min_size=ranks, max_size=ranks))
    held = [2 + stage % 2 for stage in range(len(placement))]  # micro-batches in flight

    def stage_bytes(stage: int, first: int, end: int) -> float:
        return float(held[stage] * sum(weight[first:end]))

    fitting = {}
    for sizes in _all_cuts(cells, len(placement)):
        need = _ranks([stage_bytes(s, span.start, span.stop) for s, span in enumerate(_spans(sizes))], placement, ranks)
        if all(n <= r for n, r in zip(need, room, strict=True)):
            fitting[sizes] = _stages(sizes, seconds, placement)
    if not fitting:
        with pytest.raises(DoesNotFit, match=r"no cut fits into memory: .* rank \d .* needs [\d.e+]+ bytes, and has"):
            cut(seconds, placement, stage_bytes=stage_bytes, capacity_bytes=room)
        return
    found = cut(seconds, placement, stage_bytes=stage_bytes, capacity_bytes=room)
    assert found.cells in fitting
    assert all(n <= r for n, r in zip(found.rank_bytes, room, strict=True))
    if len(placement) == ranks:
        best = min(sorted(of, reverse=True) for of in fitting.values())
        assert sorted(found.stage_seconds, reverse=True) == best
    elif found.is_optimal:
        best_pair = min((max(_ranks(of, placement, ranks)), max(of)) for of in fitting.values())
        assert (max(found.rank_seconds), max(found.stage_seconds)) == best_pair


def test_a_slow_rank_gets_fewer_cells_in_proportion() -> None:
    seconds = [[1.0] * 30, [2.0] * 30]
    assert cut(seconds, (0, 1)).cells == (20, 10)
    assert cut(seconds, (1, 0)).cells == (10, 20)


def test_a_stage_may_hold_nothing() -> None:
    assert sorted(cut([[5.0, 0.0], [5.0, 0.0]], (0, 1, 0)).stage_seconds) == [0.0, 0.0, 5.0]


def test_lings_trillion_parameter_model_is_cut_to_the_least_there_is() -> None:
    """Cells and figures of arXiv 2510.22115, section 5, as in the brief: 21 ranks, 2 or 4 stages each."""
    cells = [0.0] + [0.5] * 4 + [1.0] * 76 + [1.0, 0.7, 0.7]
    for chunks in (2, 4):
        found = cut([cells] * 21, tuple(range(21)) * chunks)
        assert max(found.rank_seconds) == pytest.approx(4.0)  # no set of cells sums to less, from the mean 3.83 up
        assert found.imbalance == pytest.approx(1.045, abs=0.001)
        assert max(found.stage_seconds) <= 2.0


@pytest.mark.parametrize("placement", [(*range(8),) * 3, (*range(8), *reversed(range(8)))], ids=["looped", "v"])
def test_many_stages_come_near_to_a_perfect_cut(placement: Sizes) -> None:
    """Ranks as fast as makes one cut even; it need not be found, but one as good but for a few percent must be."""
    rng = np.random.default_rng(0)
    sizes = tuple(rng.integers(1, 6, len(placement)).tolist())
    cells = rng.uniform(0.8, 1.2, sum(sizes)).tolist()
    speeds = _ranks(_stages(sizes, [cells] * 8, placement), placement, 8)
    seconds = [[c / speed for c in cells] for speed in speeds]
    assert described(sizes, seconds, placement).imbalance == pytest.approx(1.0)
    found = cut(seconds, placement)
    assert max(found.rank_seconds) < 1.04
    assert max(found.rank_seconds) < 0.9 * max(described(_even(len(cells), placement), seconds, placement).rank_seconds)


def _even(cells: int, placement: Sizes) -> Sizes:
    stages = len(placement)
    return tuple(cells * (s + 1) // stages - cells * s // stages for s in range(stages))


def test_what_a_given_cut_comes_to() -> None:
    found = described((1, 0, 2), [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]], (0, 1, 0), lambda s, i, j: 10.0 * (j - i))
    assert found.stage_seconds == (1.0, 0.0, 5.0)
    assert found.rank_seconds == (6.0, 0.0)
    assert found.rank_bytes == (30.0, 0.0)
    assert found.imbalance == 2.0
    with pytest.raises(ScheduleError, match="a cut into 2 stages, where the schedule has 3"):
        described((1, 2), [[1.0] * 3], (0, 0, 0))
    with pytest.raises(ScheduleError, match=r"a cut of 4 cells \[2, 2\], where the model has 3"):
        described((2, 2), [[1.0] * 3], (0, 0))


def test_megatrons_cut_deals_the_blocks_evenly() -> None:
    blocks = [Cell("moe", i) for i in range(6)]
    cells = (Cell("embedding"), *blocks, Cell("mtp"), Cell("mtp_head"), Cell("head"))
    assert equal_cut(cells, 3) == (3, 2, 5)
    assert equal_cut(cells, 1) == (10,)
    with pytest.raises(ScheduleError, match=r"6 blocks can't be dealt evenly to 4 stages, but to any of 1, 2, 3, 6"):
        equal_cut(cells, 4)


def test_more_ranks_than_cells_are_refused() -> None:
    with pytest.raises(ScheduleError, match="3 ranks for 2 cells: some would have nothing to do"):
        cut([[1.0, 1.0]] * 3, (0, 1, 2))
    with pytest.raises(ScheduleError, match=r"for stages on ranks \[0, 3\]"):
        cut([[1.0, 1.0]] * 3, (0, 3))


def test_what_does_not_fit_is_named_with_its_bytes() -> None:
    with pytest.raises(ScheduleError, match=r"rank 1 with stage 1 \(cells 2 to 3\) needs 20 bytes, and has 15"):
        cut([[1.0] * 4] * 2, (0, 1), stage_bytes=lambda s, i, j: 10.0 * (j - i), capacity_bytes=[20.0, 15.0])
