"""Expert ops with hand-written gradients and one matrix product per expert, written into buffers allocated once.

On CPUs a loop of `mm(out=…)` beats `F.grouped_mm` in float32 (5 times here) and equals it in bfloat16; the gradient by
hand keeps one activation (gate and up before the nonlinearity) instead of four.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from grainline.kernels.deferred import WeightQueue, add_gradient


def _spans(counts: list[int]) -> Iterator[tuple[int, slice]]:
    """(expert, its rows) for every expert that has any."""
    for expert, (start, stop) in enumerate(pairwise(accumulate(counts, initial=0))):
        if stop > start:
            yield expert, slice(start, stop)


def _outer_products(counts: list[int], left_NX: Tensor, right_NY: Tensor, shape_EXY: torch.Size) -> Tensor:
    """Of each expert's rows: leftᵀ · right; 0 for an expert without any."""
    out_EXY = left_NX.new_zeros(shape_EXY)
    for e, span in _spans(counts):
        torch.mm(left_NX[span].t(), right_NY[span], out=out_EXY[e])
    return out_EXY


class SwigluExperts(Function):
    """See `reference.swiglu_experts`."""

    @staticmethod
    def forward(
        ctx: Any, rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor, queue: WeightQueue | None
    ) -> Tensor:
        dtype, counts = rows_ND.dtype, counts_E.tolist()
        ctx.counts, ctx.w13_dtype, ctx.w2_dtype, ctx.queue = counts, w13_E2FD.dtype, w2_EDF.dtype, queue
        if queue is not None:
            ctx.weights = w13_E2FD, w2_EDF
        w13_EGD, w2_EDF = w13_E2FD.flatten(1, 2).to(dtype), w2_EDF.to(dtype)
        hidden_NG = rows_ND.new_empty(rows_ND.shape[0], w13_EGD.shape[1])
        out_ND = rows_ND.new_empty(rows_ND.shape[0], w2_EDF.shape[1])
        for e, span in _spans(counts):
            torch.mm(rows_ND[span], w13_EGD[e].t(), out=hidden_NG[span])
        gate_NF, up_NF = hidden_NG.chunk(2, dim=-1)
        act_NF = F.silu(gate_NF).mul_(up_NF)
        for e, span in _spans(counts):
            torch.mm(act_NF[span], w2_EDF[e].t(), out=out_ND[span])
        ctx.save_for_backward(rows_ND, hidden_NG, w13_EGD, w2_EDF)
        return out_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_ND: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        rows_ND, hidden_NG, w13_EGD, w2_EDF = ctx.saved_tensors
        d_out_ND, counts = d_out_ND.contiguous(), ctx.counts
        deferred = ctx.queue is not None and ctx.queue.is_open
        shape_13, shape_2 = w13_EGD.shape, w2_EDF.shape
        gate_NF, up_NF = hidden_NG.chunk(2, dim=-1)
        sigmoid_NF = torch.sigmoid(gate_NF)
        silu_NF = gate_NF * sigmoid_NF
        act_NF = silu_NF * up_NF
        d_act_NF = torch.empty_like(act_NF)
        for e, span in _spans(counts):
            torch.mm(d_out_ND[span], w2_EDF[e], out=d_act_NF[span])
        d_w2_EDF = None if deferred else _outer_products(counts, d_out_ND, act_NF, shape_2).to(ctx.w2_dtype)
        scratch_NF = torch.empty_like(act_NF) if deferred else act_NF
        d_hidden_NG = torch.empty_like(hidden_NG)
        d_gate_NF, d_up_NF = d_hidden_NG.chunk(2, dim=-1)
        torch.mul(d_act_NF, silu_NF, out=d_up_NF)
        # d silu(g) = σ(g) + silu(g)·(1 − σ(g))
        slope_NF = silu_NF.neg_().mul_(sigmoid_NF).add_(scratch_NF.copy_(gate_NF).mul_(sigmoid_NF)).add_(sigmoid_NF)
        torch.mul(d_act_NF.mul_(up_NF), slope_NF, out=d_gate_NF)
        d_rows_ND = torch.empty_like(rows_ND)
        for e, span in _spans(counts):
            torch.mm(d_hidden_NG[span], w13_EGD[e], out=d_rows_ND[span])
        if not deferred:
            d_w13_E2FD = _outer_products(counts, d_hidden_NG, rows_ND, shape_13).unflatten(1, (2, -1))
            return d_rows_ND, d_w13_E2FD.to(ctx.w13_dtype), d_w2_EDF, None, None
        w13, w2 = ctx.weights

        def add() -> None:
            add_gradient(w13, _outer_products(counts, d_hidden_NG, rows_ND, shape_13).unflatten(1, (2, -1)))
            add_gradient(w2, _outer_products(counts, d_out_ND, act_NF, shape_2))

        ctx.queue.put(add)
        return d_rows_ND, None, None, None, None


def expert_mixture(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor,
    unit_N: Tensor,
    counts_E: Tensor,
    queue: WeightQueue | None = None,
) -> Tensor:
    """See `reference.expert_mixture`."""
    quantum = row_quantum(len(unit_N), len(counts_E), x_TD.dtype)
    if quantum > 1 and x_TD.device.type == "cpu":
        unit_N, score_N, counts_E = padded(unit_N, score_N, counts_E, quantum)
    rows_ND = swiglu_experts(x_TD.index_select(0, unit_N), w13_E2FD, w2_EDF, counts_E, queue)
    return combine_rows(rows_ND, score_N, unit_N, x_TD.shape[0])


def row_quantum(rows: int, experts: int, dtype: torch.dtype) -> int:
    """What row counts per expert should be a multiple of; extra rows are any row with score 0.

    oneDNN compiles a bfloat16 product anew for each number of rows and remembers only so many: with free counts that
    takes longer than the products. The quantum keeps the shapes few and the waste under a quarter.
    """
    if dtype != torch.bfloat16:
        return 1
    return next((q for q in (32, 16, 8, 4) if rows >= 2 * q * experts), 1)


def padded(unit_N: Tensor, score_N: Tensor, counts_E: Tensor, quantum: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row counts rounded up to multiples of `quantum` by extra entries of unit 0 with score 0; the output is unchanged.

    Lists sorted by expert. Ling 2.0's padding routing map (arXiv 2510.22115, section on FP8 training).
    """
    padded_E = (counts_E + quantum - 1) // quantum * quantum
    shift_E = (padded_E - counts_E).cumsum(0) - (padded_E - counts_E)
    place_N = torch.arange(len(unit_N), device=unit_N.device) + shift_E.repeat_interleave(counts_E)
    size = int(padded_E.sum())
    unit_P = unit_N.new_zeros(size).index_copy_(0, place_N, unit_N)
    score_P = score_N.new_zeros(size).index_copy(0, place_N, score_N)
    return unit_P, score_P, padded_E


class CombineRows(Function):
    """See `reference.combine_rows`; keeps the rows once, and no product of them."""

    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, score_N: Tensor, unit_N: Tensor, units: int) -> Tensor:
        ctx.save_for_backward(rows_ND, score_N, unit_N)
        out_TD = rows_ND.new_zeros(units, rows_ND.shape[-1])
        return out_TD.index_add_(0, unit_N, rows_ND * score_N.unsqueeze(-1).to(rows_ND.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_TD: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows_ND, score_N, unit_N = ctx.saved_tensors
        d_rows_ND = d_out_TD.index_select(0, unit_N)
        d_score_N = torch.einsum("nd,nd->n", d_rows_ND, rows_ND).to(score_N.dtype)
        return d_rows_ND.mul_(score_N.unsqueeze(-1).to(d_rows_ND.dtype)), d_score_N, None, None


def swiglu_experts(
    rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor, queue: WeightQueue | None = None
) -> Tensor:
    """See `reference.swiglu_experts`; with a queue, its weights' gradients can be deferred."""
    return SwigluExperts.apply(rows_ND, w13_E2FD, w2_EDF, counts_E, queue)


def combine_rows(rows_ND: Tensor, score_N: Tensor, unit_N: Tensor, units: int) -> Tensor:
    """See `reference.combine_rows`."""
    return CombineRows.apply(rows_ND, score_N, unit_N, units)
