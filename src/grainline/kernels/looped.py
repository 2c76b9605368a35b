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


def _spans(counts: list[int]) -> Iterator[tuple[int, slice]]:
    """(expert, its rows) for every expert that has any."""
    for expert, (start, stop) in enumerate(pairwise(accumulate(counts, initial=0))):
        if stop > start:
            yield expert, slice(start, stop)


class SwigluExperts(Function):
    """See `reference.swiglu_experts`."""

    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor) -> Tensor:
        dtype, counts = rows_ND.dtype, counts_E.tolist()
        ctx.counts, ctx.w13_dtype, ctx.w2_dtype = counts, w13_E2FD.dtype, w2_EDF.dtype
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
    def backward(ctx: Any, d_out_ND: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows_ND, hidden_NG, w13_EGD, w2_EDF = ctx.saved_tensors
        d_out_ND = d_out_ND.contiguous()
        gate_NF, up_NF = hidden_NG.chunk(2, dim=-1)
        sigmoid_NF = torch.sigmoid(gate_NF)
        silu_NF = gate_NF * sigmoid_NF
        act_NF = silu_NF * up_NF
        d_act_NF = torch.empty_like(act_NF)
        d_w2_EDF = torch.zeros_like(w2_EDF)
        for e, span in _spans(ctx.counts):
            torch.mm(d_out_ND[span], w2_EDF[e], out=d_act_NF[span])
            torch.mm(d_out_ND[span].t(), act_NF[span], out=d_w2_EDF[e])
        d_hidden_NG = torch.empty_like(hidden_NG)
        d_gate_NF, d_up_NF = d_hidden_NG.chunk(2, dim=-1)
        torch.mul(d_act_NF, silu_NF, out=d_up_NF)
        # d silu(g) = σ(g) + silu(g)·(1 − σ(g))
        slope_NF = silu_NF.neg_().mul_(sigmoid_NF).add_(act_NF.copy_(gate_NF).mul_(sigmoid_NF)).add_(sigmoid_NF)
        torch.mul(d_act_NF.mul_(up_NF), slope_NF, out=d_gate_NF)
        d_rows_ND = torch.empty_like(rows_ND)
        d_w13_EGD = torch.zeros_like(w13_EGD)
        for e, span in _spans(ctx.counts):
            torch.mm(d_hidden_NG[span], w13_EGD[e], out=d_rows_ND[span])
            torch.mm(d_hidden_NG[span].t(), rows_ND[span], out=d_w13_EGD[e])
        d_w13_E2FD = d_w13_EGD.unflatten(1, (2, -1)).to(ctx.w13_dtype)
        return d_rows_ND, d_w13_E2FD, d_w2_EDF.to(ctx.w2_dtype), None


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


def swiglu_experts(rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """See `reference.swiglu_experts`."""
    return SwigluExperts.apply(rows_ND, w13_E2FD, w2_EDF, counts_E)


def combine_rows(rows_ND: Tensor, score_N: Tensor, unit_N: Tensor, units: int) -> Tensor:
    """See `reference.combine_rows`."""
    return CombineRows.apply(rows_ND, score_N, unit_N, units)
