"""Rows: what the devices and wires under each pipeline rank are like for it. Ranks in alike places share one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.pace import Pace
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.ring import Ring
from grainline.plan.layouts.strategy import Strategy


class Row(NamedTuple):
    """Of the ranks of one pipeline rank: the slowest device, the least memory, the slowest of each kind of group."""

    pace: Pace
    capacity: float
    tensor: Ring
    context: Ring
    expert: Ring
    expert_tensor: Ring
    data: Ring  # those that hold the same dense parameters: over context and data
    expert_data: Ring


@dataclass(frozen=True)
class Rows:
    """`of[rank]` is a row."""

    rows: tuple[Row, ...]
    of: NDArray[np.intp]
    capacity: NDArray[np.float64]  # by rank

    @classmethod
    def under(cls, problem: Problem, st: Strategy) -> Rows:
        """Those of a strategy."""
        key = ("rows", st.tensor, st.context, st.data, st.pipeline, st.expert, st.expert_tensor)
        found = problem.memo.get(key)
        if found is None:
            found = problem.memo[key] = _under(problem, st)
        assert isinstance(found, Rows)
        return found


def _under(problem: Problem, st: Strategy) -> Rows:
    fleet, width = problem.fleet, st.width
    if fleet.uniform:
        row = _row(problem, st, 0, width)
        return Rows((row,), np.zeros(st.pipeline, np.intp), np.full(st.pipeline, row.capacity))
    known: dict[tuple[object, ...], int] = {}
    rows: list[Row] = []
    of = []
    for rank in range(st.pipeline):
        row = _row(problem, st, rank * width, (rank + 1) * width)
        key = (row.pace, row.capacity, *(id(ring) for ring in row[2:]))
        if key not in known:
            known[key] = len(rows)
            rows.append(row)
        of.append(known[key])
    chosen = np.array(of, np.intp)
    return Rows(tuple(rows), chosen, np.array([row.capacity for row in rows])[chosen])


def _row(problem: Problem, st: Strategy, start: int, stop: int) -> Row:
    fleet = problem.fleet
    kinds = {device.name: device for device in fleet.types[start:stop]}
    slowest = min((problem.paces[name] for name in kinds), key=lambda pace: pace.speed)
    room = min(d.memory[0].capacity_bytes if d.memory else math.inf for d in kinds.values())
    size, stride = st.context * st.data, st.tensor
    return Row(
        slowest,
        float(room),
        fleet.ring(st.tensor, 1, start, stop),
        fleet.ring(st.context, st.tensor, start, stop),
        fleet.ring(st.expert, st.expert_tensor, start, stop),
        fleet.ring(st.expert_tensor, 1, start, stop),
        fleet.ring(size, stride, start, stop),
        fleet.ring(st.expert_data, st.expert * st.expert_tensor, start, stop),
    )


def between(fleet: Fleet, st: Strategy) -> tuple[Ring, ...]:
    """From each pipeline rank to the next, and from the last back to the first."""
    p, width = st.pipeline, st.width
    steps = tuple(fleet.hop(width, r * width, (r + 1) * width) for r in range(p - 1))
    return (*steps, fleet.hop(width - st.ranks, st.ranks - width, st.ranks))
