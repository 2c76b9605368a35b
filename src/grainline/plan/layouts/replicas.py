"""Replicas: sums of gradients over ranks that hold the same parameters, gathers of what is sharded, and the update."""

from __future__ import annotations

import numpy as np

from grainline.plan.layouts.estimate import Floats
from grainline.plan.layouts.passes import Passes
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.ring import CONTENTION, Ring
from grainline.plan.layouts.rows import Row, Rows, between
from grainline.plan.layouts.strategy import Strategy

Parameters = tuple[Floats, Floats]
"""By pipeline rank: dense ones, experts'."""


def replicas(problem: Problem, st: Strategy, rows: Rows, parameters: Parameters, found: Passes) -> tuple[float, float]:
    """Seconds after the passes that nothing hides, and what of them goes between nodes.

    A rank that ends its passes before the first one has as long for its sums. Beside the backward of its last
    micro-batch (or with sharded weights beside all that it computes) they take a share of the units alone.
    """
    dense, experts = parameters
    if st.width == 1 and not problem.shape.tied:
        return 0.0, 0.0
    m = st.microbatches(problem.batch_sequences)
    grad, weight = problem.engine.sent_bytes, problem.width
    once = 1 if st.shard == "none" else 0
    again = {"none": 0, "optimizer": 1, "full": 2 * m}[st.shard]
    sums = m if st.shard == "full" else 1  # a block's gradients are scattered as they come
    seconds = np.zeros(st.pipeline)
    for ring_of, count in ((lambda row: row.data, dense), (lambda row: row.expert_data, experts)):
        slope, fixed = _lines(rows, ring_of)
        each = sums * (1 + once) * grad + again * weight
        seconds += np.where(count > 0, count * each * slope + (sums + again) * fixed, 0.0)
    backward = found.total - found.forward
    earlier = np.concatenate(([0.0], backward.cumsum()[:-1])) / st.chunks  # what earlier ranks still compute
    hidden = np.zeros(st.pipeline)
    if problem.engine.overlaps_data or st.shard == "full":
        blocks = max(1, problem.shape.layers // st.pipeline)
        room = m * found.total if st.shard == "full" else backward
        # The first block's weights come before anything, the last one's gradients after everything.
        hidden = np.minimum(room, seconds * (1 - 1 / blocks)) * (1 - CONTENTION)
    left = np.maximum(0.0, seconds - hidden - (earlier if st.pipeline > 1 else 0.0))
    slowest = int(left.argmax())
    row = rows.rows[int(rows.of[slowest])]
    total, tied = float(left[slowest]), _tied(problem, st)
    crosses = row.data.nodes > 1 or row.expert_data.nodes > 1
    return total + tied, (total if crosses else 0.0) + tied


def _lines(rows: Rows, ring_of: object) -> tuple[Floats, Floats]:
    """Of each rank's ring the seconds of a gather, as slope per byte and what the first byte takes."""
    assert callable(ring_of)
    points = [_line(ring_of(row)) for row in rows.rows]
    of = np.array(points)[rows.of]
    return of[:, 0], of[:, 1]


def _line(ring: Ring) -> tuple[float, float]:
    fixed = ring.gather(1e-9)
    return (ring.gather(1e9) - fixed) / 1e9, fixed


def _tied(problem: Problem, st: Strategy) -> float:
    """The table's gradients are summed between the first and the last rank, where both hold it."""
    shape = problem.shape
    if not shape.tied or st.pipeline == 1:
        return 0.0
    return between(problem.fleet, st)[-1].hop(problem.engine.sent_bytes * shape.table_parameters / st.tensor)


def update(problem: Problem, st: Strategy, rows: Rows, parameters: Parameters) -> float:
    """The optimiser reads gradients and reads and writes its state; the norm of all gradients has everybody wait."""
    dense, experts = parameters
    if st.shard != "none":
        dense, experts = dense / (st.data * st.context), experts / st.expert_data
    rates = np.array([_rate(row) for row in rows.rows])[rows.of]
    return float((problem.engine.update_bytes * (dense + experts) / rates).max())


def _rate(row: Row) -> float:
    return row.pace.bytes_per_second * row.pace.reach.memory
