"""What a step takes under a strategy: seconds in parts and bytes by category, in closed form.

The first rungs of the ladder of estimates: rooflines of kernels, α–β times of messages, and 1F1B's critical path with
the round trip of its messages once for each p micro-batches (arXiv 2405.18093, section 4). `refine` plays the best
ones event by event. docs/planner.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from grainline.documents.cluster import Source
from grainline.plan.layouts import memory
from grainline.plan.layouts.estimate import Estimate, Floats, Memory, Seconds, Spread
from grainline.plan.layouts.pace import UNCERTAINTY
from grainline.plan.layouts.passes import Passes, passes
from grainline.plan.layouts.pricing import (
    ACROSS,
    COMPUTE,
    CONTEXT,
    EXPERT,
    PRODUCTS,
    RECOMPUTE,
    TENSOR,
    UNEVEN,
    table,
)
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.replicas import replicas, update
from grainline.plan.layouts.ring import SPREAD
from grainline.plan.layouts.rows import Rows
from grainline.plan.layouts.stages import Stages, fitting, given, stages
from grainline.plan.layouts.strategy import Strategy

__all__ = ["Estimate", "Memory", "Seconds", "evaluate"]

FORM = 0.03
"""Standard deviation of a step, relative, for what no part has: jitter, loading of data, what a closed form of the
schedule misses. Assumed; the latter is held to it by tests/plan/test_layout_schedules.py."""


def evaluate(problem: Problem, strategy: Strategy, cut: Sequence[int] | None = None) -> Estimate:
    """Seconds and bytes of a strategy on the first `strategy.ranks` devices of the fleet.

    `cut`: cells of each stage, where somebody has decided; by default the fastest that fits.
    """
    st = strategy
    m = st.microbatches(problem.batch_sequences)
    rows = Rows.under(problem, st)
    tables = np.array([table(problem, st, row) for row in rows.rows])
    if cut is not None:
        return _estimate(problem, st, rows, tables, given(problem, st, cut), m)
    estimate = _estimate(problem, st, rows, tables, stages(problem, st, rows, tables), m)
    if estimate.fits or estimate.bytes_of.sum() > rows.capacity.sum():
        return estimate
    less = fitting(problem, st, rows, tables, m)
    return estimate if less is None else _estimate(problem, st, rows, tables, less, m)


def _estimate(
    problem: Problem, st: Strategy, rows: Rows, tables: NDArray[np.float64], held: Stages, m: int
) -> Estimate:
    cut, counts = held
    of_rank = counts @ tables[0] if len(rows.rows) == 1 else np.einsum("pk,pkf->pf", counts, tables[rows.of])
    found = passes(problem, st, of_rank, m)
    slow = of_rank[found.slowest]
    dense, experts = counts @ memory.parameters(problem, st).T[:, 0], counts @ memory.parameters(problem, st).T[:, 1]
    data, data_across = replicas(problem, st, rows, (dense, experts), found)
    seconds = Seconds(
        compute=m * float(slow[COMPUTE]),
        recompute=m * float(slow[RECOMPUTE]),
        tensor=m * float(slow[TENSOR]),
        context=m * float(slow[CONTEXT]),
        expert=m * float(slow[EXPERT]),
        bubble=found.bubble,
        pipeline=found.messages,
        data=data,
        update=update(problem, st, rows, (dense, experts)),
    )
    sources = _sources(problem, rows)
    spread = _spread(seconds, found, slow, m, data_across, dict(sources))
    return Estimate(st, cut, seconds, memory.held(problem, st, counts, m), rows.capacity, spread, sources)


def _sources(problem: Problem, rows: Rows) -> tuple[tuple[str, Source], ...]:
    """Where each kind of rate is from; of several devices, the least certain."""
    device = max((row.pace.source for row in rows.rows), key=lambda source: UNCERTAINTY[source])
    inside, across = problem.fleet.ways.sources
    # No trace of routing was given unless the load itself was.
    load: Source = "measured" if type(problem.imbalance).__name__ == "Load" else "assumed"
    return ("products", device), ("memory", device), ("inside", inside), ("across", across), ("load", load)


def _spread(
    seconds: Seconds, found: Passes, slow: Floats, m: int, data_across: float, source: dict[str, Source]
) -> Spread:
    """Parts that hang on one constant are off together, those of different constants independently."""
    busy = float(slow[COMPUTE : EXPERT + 1].sum())
    fill = 1 + seconds.bubble / max(m * busy, 1e-30)  # the bubble is made of the same parts
    products, computed = float(slow[PRODUCTS]), float(slow[COMPUTE] + slow[RECOMPUTE])
    sent, across = float(slow[TENSOR] + slow[CONTEXT] + slow[EXPERT]), float(slow[ACROSS])
    return Spread(
        products=UNCERTAINTY[source["products"]] * products * m * fill,
        memory=UNCERTAINTY[source["memory"]] * ((computed - products) * m * fill + seconds.update),
        inside=SPREAD[source["inside"]]
        * ((sent - across) * m * fill + seconds.data - data_across + found.messages_inside),
        across=SPREAD[source["across"]] * (across * m * fill + data_across + seconds.pipeline - found.messages_inside),
        load=0.5 * float(slow[UNEVEN]) * m * fill if source["load"] == "assumed" else 0.1 * float(slow[UNEVEN]) * m,
        form=FORM * seconds.total,
    )
