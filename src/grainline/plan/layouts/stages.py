"""Stages: which cells each stage and each pipeline rank of a strategy has, counted by kind."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grainline.documents import GrainlineError
from grainline.plan.layouts import memory
from grainline.plan.layouts.partition import Room, even, partition
from grainline.plan.layouts.pricing import COMPUTE, EXPERT
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.rows import Rows
from grainline.plan.layouts.strategy import Strategy


class Stages(NamedTuple):
    """Of a strategy."""

    cut: tuple[int, ...]  # cells of each stage
    counts: NDArray[np.float64]  # [pipeline ranks, kinds of cells]


def stages(problem: Problem, st: Strategy, rows: Rows, tables: NDArray[np.float64]) -> Stages:
    """Cut so that the slowest stage is as fast as can be, or evenly where the engine knows nothing else.

    `tables` are [rows, kinds of cells, fields of Cell].
    """
    p, count = st.pipeline, st.pipeline * st.chunks
    if problem.engine.cuts_unevenly and count > 1:
        seconds = tables[:, :, COMPUTE : EXPERT + 1].sum(2)  # of each kind of cell on each row
        key: tuple[object, ...] = ("cut", p, st.chunks, seconds.tobytes(), rows.of.tobytes())
        found = problem.memo.get(key)
        if found is None:
            by_cell = [[float(row[k]) for k in _places(problem)] for row in seconds]
            cut = partition(by_cell, [int(rows.of[stage % p]) for stage in range(count)])
            assert cut is not None
            found = _counted(problem, st, cut)
            if st.chunks > 1:  # the largest stage was made small; what counts is the busiest rank
                level = _counted(problem, st, even(len(problem.cells), count))
                found = min(found, level, key=lambda s: float((s.counts * seconds[rows.of]).sum(1).max()))
            problem.memo[key] = found
    else:
        key = ("cut", p, st.chunks)
        found = problem.memo.get(key)
        if found is None:
            found = problem.memo[key] = _counted(problem, st, even(len(problem.cells), count))
    assert isinstance(found, Stages)
    return found


def given(problem: Problem, st: Strategy, cut: Sequence[int]) -> Stages:
    """As a plan says. Raises GrainlineError for a cut that doesn't add up."""
    stages = st.pipeline * st.chunks
    if len(cut) != stages or sum(cut) != len(problem.cells) or min(cut) < 0:
        raise GrainlineError(
            f"pipeline.cut {list(cut)} must be {stages} numbers that add up to the model's {len(problem.cells)} cells "
            "(multi-token prediction counted as one)."
        )
    return _counted(problem, st, tuple(cut))


def fitting(problem: Problem, st: Strategy, rows: Rows, tables: NDArray[np.float64], m: int) -> Stages | None:
    """The same where the fastest cut has a rank that is too full, and others have room: none over its memory.

    A rank's chunks get equal shares of its room. None where there is no such cut.
    """
    p, count = st.pipeline, st.pipeline * st.chunks
    if not problem.engine.cuts_unevenly or p == 1:
        return None
    each, fixed = memory.by_cell(problem, st, m)
    of_rank = [list(accumulate(each[_places(problem), rank], initial=0.0)) for rank in range(p)]
    room = (rows.capacity - fixed) / st.chunks
    seconds = tables[:, :, COMPUTE : EXPERT + 1].sum(2)
    by_cell = [[float(row[k]) for k in _places(problem)] for row in seconds]
    ranks = [stage % p for stage in range(count)]
    bound = Room([of_rank[rank] for rank in ranks], [float(room[rank]) for rank in ranks])
    cut = partition(by_cell, [int(rows.of[rank]) for rank in ranks], bound)
    return None if cut is None else _counted(problem, st, cut)


def _places(problem: Problem) -> list[int]:
    found = problem.memo.get("places")
    if found is None:
        found = problem.memo["places"] = [problem.kinds.index(cell) for cell in problem.cells]
    assert isinstance(found, list)
    return found


def _counted(problem: Problem, st: Strategy, cut: tuple[int, ...]) -> Stages:
    p, width = st.pipeline, len(problem.kinds)
    before = problem.memo.get("cells before")
    if before is None:
        before = np.zeros((len(problem.cells) + 1, width))
        before[1:] = np.eye(width)[_places(problem)].cumsum(0)
        problem.memo["cells before"] = before
    ends = [0, *accumulate(cut)]
    of_stage = np.diff(before[ends], axis=0)
    return Stages(cut, of_stage.reshape(st.chunks, p, width).sum(0))
