"""Pricing: seconds of one cell for a micro-batch on one row of devices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grainline.plan.layouts import operators
from grainline.plan.layouts.load import Imbalance
from grainline.plan.layouts.pace import Took
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.ring import CONTENTION
from grainline.plan.layouts.rows import Row
from grainline.plan.layouts.strategy import Strategy
from grainline.plan.layouts.work import Load, Message, Part, Setting, Work

Block = tuple[Part, ...]


class Cell(NamedTuple):
    """Seconds of one micro-batch, forward and backward."""

    compute: float
    recompute: float
    tensor: float
    context: float
    expert: float
    forward: float  # of all of these, what the forward has
    weights: float  # and the weights' gradients
    products: float  # of compute and recompute, what is bound by the rate of products
    across: float  # of the messages, what goes between nodes
    uneven: float  # what is owed to the busiest rank's having more than the mean


WIDE = len(Cell._fields)
COMPUTE, RECOMPUTE, TENSOR, CONTEXT, EXPERT, FORWARD, WEIGHTS, PRODUCTS, ACROSS, UNEVEN = range(WIDE)


def load_of(problem: Problem, st: Strategy) -> Load:
    """Of the busiest rank of an expert-parallel group."""
    experts = problem.shape.experts
    if not isinstance(problem.imbalance, Imbalance):
        return problem.imbalance if st.expert > 1 else Load()
    if experts is None or st.expert == 1:
        return Load()
    each = st.sequences * problem.length / st.splits_sequence * st.expert_tensor * experts.top_k
    return problem.imbalance.load(each * st.expert, experts.experts, st.expert)


def setting(problem: Problem, st: Strategy) -> Setting:
    """Of a strategy's operators."""
    narrow = problem.dtype == "float8"
    return Setting(problem.shape, st, problem.engine, problem.length, problem.width, narrow, load_of(problem, st))


def blocks(problem: Problem, st: Strategy) -> dict[str, Block]:
    """The parts of each kind of cell; what doesn't change between strategies is made once."""
    key = ("blocks", st.tensor, st.context, st.expert, st.expert_tensor, st.sequences, st.sequence_parallel)
    found = problem.memo.get(key)
    if found is None:
        s = setting(problem, st)
        attention = operators.attention(s)
        found = {"embedding": (operators.embedding(s),), "head": (operators.head(s),)}
        found["dense"] = (attention, operators.dense(s))
        if problem.shape.experts is not None:
            found["moe"] = (attention, operators.sparse(s))
        if problem.shape.mtp:
            block = found["moe"] if problem.shape.sparse_layers else found["dense"]
            found["mtp"] = (operators.projection(s), *block, *found["head"])
        problem.memo[key] = found
    assert isinstance(found, dict)
    return found


def table(problem: Problem, st: Strategy, row: Row) -> NDArray[np.float64]:
    """[kinds of cells, fields of Cell] on one row."""
    rings = (id(row.tensor), id(row.context), id(row.expert), id(row.expert_tensor))
    key = (st.tensor, st.context, st.expert, st.expert_tensor, st.sequences, st.sequence_parallel, st.recompute, rings)
    found = problem.memo.get((key, id(row.pace)))
    if found is None:
        made = blocks(problem, st)
        found = np.array([_cell(made[kind], row, st, load_of(problem, st)) for kind in problem.kinds])
        problem.memo[key, id(row.pace)] = found
    return found


def _cell(block: Block, row: Row, st: Strategy, load: Load) -> Cell:
    forward = [_price(part.forward, row) for part in block]
    backward = [_price(part.backward, row) for part in block]
    again: list[Price] = []
    if st.recompute == "full" and len(block) > 1:  # a head or an embedding by itself is never computed again
        again = forward
    elif st.recompute == "attention":
        again = [_price(part.again, row) for part in block]
    all_of_it = [*forward, *backward, *again]
    busiest = sum(
        op.heaviest > 1 and row.pace.took((op,)).total * (1 - 1 / op.heaviest)
        for part in block
        for work in (part.forward, part.backward)
        for op in work.ops
    )
    sent = sum(p.expert for p in all_of_it)
    return Cell(
        compute=sum(p.took.total for p in (*forward, *backward)),
        recompute=sum(p.took.total for p in again),
        tensor=sum(p.tensor for p in all_of_it),
        context=sum(p.context for p in all_of_it),
        expert=sent,
        forward=sum(p.took.total + p.tensor + p.context + p.expert for p in forward),
        weights=sum(p.took.total for p in backward) / 2,
        products=sum(p.took.products for p in all_of_it),
        across=sum(p.across for p in all_of_it),
        uneven=busiest + sent * (1 - 1 / load.time),
    )


class Price(NamedTuple):
    """Seconds of work, messages by group."""

    took: Took
    tensor: float
    context: float
    expert: float
    across: float


def _price(work: Work, row: Row) -> Price:
    sent = {"tensor": 0.0, "context": 0.0, "expert": 0.0, "expert_tensor": 0.0}
    across = 0.0
    for message in work.messages:
        seconds = _sent(message, row)
        if message.behind is not None:
            hidden = min(seconds, row.pace.took((message.behind,)).total)
            seconds -= (1 - CONTENTION) * hidden
        sent[message.group] += seconds
        across += seconds * (getattr(row, message.group).nodes > 1)
    took = row.pace.took(work.ops)
    return Price(took, sent["tensor"], sent["context"], sent["expert"] + sent["expert_tensor"], across)


def _sent(message: Message, row: Row) -> float:
    ring = getattr(row, message.group)
    match message.kind:
        case "gather":
            return float(ring.gather(message.bytes))
        case "reduce":
            return float(ring.reduce(message.bytes))
        case "exchange":
            return float(ring.exchange(message.bytes))
    return float(ring.gather(message.bytes * ring.size))
