"""Memory: what each pipeline rank holds at its fullest, by category."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grainline.plan import memory as own
from grainline.plan.layouts.estimate import Floats, Memory
from grainline.plan.layouts.pricing import blocks
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.strategy import Strategy
from grainline.schedule.cells import Cell


def parameters(problem: Problem, st: Strategy) -> NDArray[np.float64]:
    """[2, kinds of cells]: of a rank's share of a cell, what all data-parallel ranks hold alike, and of its experts.

    Norms and biases are left out.
    """
    key = ("parameters", st.tensor, st.expert * st.expert_tensor, st.pipeline == 1)
    found = problem.memo.get(key)
    if found is None:
        shape, t, e = problem.shape, st.tensor, st.expert * st.expert_tensor
        low = sum(inner * columns for inner, columns in shape.low)  # each rank has all of these
        attention = low + (shape.attention_matrices - low) / t
        router = shape.beside_experts - 3 * shape.hidden * (shape.experts.shared_hidden if shape.experts else 0)
        beside = router + (shape.beside_experts - router) / t
        sizes = {
            "embedding": (shape.table_parameters / t, 0.0),
            "head": (0.0 if shape.tied and st.pipeline == 1 else shape.table_parameters / t, 0.0),
            "dense": (attention + shape.ffn_parameters / t, 0.0),
            "moe": (attention + beside, shape.expert_parameters / e),
        }
        block = sizes["moe" if shape.sparse_layers else "dense"]
        sizes["mtp"] = block[0] + 2 * shape.hidden**2, block[1]
        found = problem.memo[key] = np.array([sizes[kind] for kind in problem.kinds]).T
    return found


def in_flight(st: Strategy, ranks: NDArray[np.intp], m: int) -> Floats:
    """Micro-batches of a rank's cells that wait for their backward, at most (arXiv 2104.04473, section 2.2)."""
    p, v = st.pipeline, st.chunks
    if st.schedule == "gpipe" and p > 1:
        return np.full(len(ranks), float(m))
    if v == 1:
        return np.minimum(m, p - ranks).astype(float)
    # Warm-up and one more, of the p·v that a group of p micro-batches is; all of them where there are no more.
    return np.minimum(float(m), (2 * (p - ranks - 1) + (v - 1) * p + 1) / v)


def held(problem: Problem, st: Strategy, counts: NDArray[np.float64], m: int) -> Floats:
    """[pipeline ranks, categories of Memory] of a strategy with so many cells of each kind on each rank."""
    engine = problem.engine
    dense, experts = counts @ parameters(problem, st).T[:, 0], counts @ parameters(problem, st).T[:, 1]
    among, among_experts = st.data * st.context, st.expert_data
    full, state = st.shard == "full", st.shard != "none"
    whole = dense / (among if full else 1) + experts / (among_experts if full else 1)
    stepped = dense / (among if state else 1) + experts / (among_experts if state else 1)
    kept, logits, most = _activations(problem, st)
    waiting = in_flight(st, np.arange(st.pipeline), m)
    found = np.zeros((st.pipeline, len(Memory._fields)))
    found[:, 0] = problem.weight_bytes * whole
    found[:, 1] = engine.gradient_bytes * whole
    found[:, 2] = engine.optimizer_bytes * stepped
    found[:, 3] = (counts @ kept) * waiting
    found[:, 4] = counts @ logits
    found[:, 5] = (counts * most > 0).any(1) * most.max()
    if full:  # this block's weights and the next one's, gathered, and this one's gradients
        each = parameters(problem, st).sum(0)
        found[:, 5] += (2 * problem.width + engine.sent_bytes) * each.max()
    found[:, 6] = engine.context_bytes + engine.buffer_bytes + engine.fragmentation * found.sum(1)
    return found


def by_cell(problem: Problem, st: Strategy, m: int) -> tuple[Floats, Floats]:
    """What `held` comes to cell by cell: bytes of a cell of each kind on each rank, and of a rank whatever it has."""
    p, engine = st.pipeline, problem.engine
    kinds = np.eye(len(problem.kinds))
    each = np.stack([held(problem, st, np.tile(kind, (p, 1)), m) for kind in kinds])
    once = Memory._fields.index("working")
    more = 1 + engine.fragmentation
    fixed = each[:, :, once].max(0) * more + engine.context_bytes + engine.buffer_bytes
    return each[:, :, :once].sum(2) * more, fixed


def kept(problem: Problem, st: Strategy) -> Floats:
    """By kind of cell, bytes that a micro-batch keeps for its backward."""
    return _activations(problem, st)[0]


def _activations(problem: Problem, st: Strategy) -> tuple[Floats, Floats, Floats]:
    """Bytes by kind of cell: kept for a backward, of logits, and of what is made again by itself."""
    key = ("kept", st.tensor, st.context, st.expert, st.expert_tensor, st.sequences, st.sequence_parallel, st.recompute)
    found = problem.memo.get(key)
    if found is None:
        made = blocks(problem, st)
        border = problem.width * st.sequences * problem.length / st.splits_sequence * problem.shape.hidden
        kept, logits, working = [], [], []
        for kind in problem.kinds:
            whole = sum(part.kept for part in made[kind])
            if problem.engine.own_counts and problem.shape.config is not None:
                border, whole = _counted(problem, st, kind)
            inner = kind not in ("embedding", "head")
            again = inner and st.recompute == "full"
            light = sum(part.kept if part.kept_light is None else part.kept_light for part in made[kind])
            logits.append(whole if kind == "head" else 0.0)
            working.append(whole if again else 0.0)
            if kind == "head":
                kept.append(0.0)
            elif again:
                kept.append(border)
            else:
                kept.append(light if st.recompute == "attention" and inner else whole)
        found = problem.memo[key] = np.array(kept), np.array(logits), np.array(working)
    return found


def _counted(problem: Problem, st: Strategy, kind: str) -> tuple[float, float]:
    """Of one of grainline's own cells: the input that it can be made again from, and what its forward keeps."""
    config = problem.shape.config
    assert config is not None
    layers = {"dense": (set(range(config.layers)) - set(config.sparse_layers)), "moe": set(config.sparse_layers)}
    layer = min(layers.get(kind, ()), default=0)
    batch = own.MicroBatch(st.sequences, problem.length, problem.dtype)
    cell = Cell(kind, layer)  # type: ignore[arg-type]
    kept = own.kept_bytes(config, cell, batch)
    if kind == "mtp":
        kept += own.kept_bytes(config, Cell("mtp_head", 0), batch)
    return own.input_bytes(config, cell, batch), kept
