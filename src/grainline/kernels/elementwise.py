"""Norm, rotation and sums by unit with hand-written gradients: a third of the passes over memory of PyTorch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class RmsNorm(Function):
    """See `reference.rms_norm`; keeps the normalised x and one number per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normal = x * inverse
        ctx.save_for_backward(normal, gain, inverse)
        return normal * gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None]:
        normal, gain, inverse = ctx.saved_tensors
        product = (d_out * normal).flatten(0, -2)
        d_gain = product.sum(0)
        mean = (product @ gain).view(inverse.shape).div_(-normal.shape[-1])
        return (d_out * gain).addcmul_(normal, mean).mul_(inverse), d_gain, None


class Rotate(Function):
    """See `reference.rotate`; keeps only the angles: the gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return _turn(x, cos, sin, interleaved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(d_out, cos, -sin, ctx.interleaved), None, None, None


class CombineRows(Function):
    """See `reference.combine_rows`; keeps the rows once, and no product of them."""

    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, score_N: Tensor, unit_N: Tensor, units: int) -> Tensor:
        ctx.save_for_backward(rows_ND, score_N, unit_N)
        out_UD = rows_ND.new_zeros(units, rows_ND.shape[-1])
        return add_rows(out_UD, unit_N, rows_ND * score_N.unsqueeze(-1).to(rows_ND.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_UD: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows_ND, score_N, unit_N = ctx.saved_tensors
        d_rows_ND = d_out_UD.index_select(0, unit_N)
        d_score_N = torch.einsum("nd,nd->n", d_rows_ND, rows_ND).to(score_N.dtype)
        return d_rows_ND.mul_(score_N.unsqueeze(-1).to(d_rows_ND.dtype)), d_score_N, None, None


def add_rows(out_UD: Tensor, unit_N: Tensor, rows_ND: Tensor) -> Tensor:
    """out[unit] += row, in place; units may come several times."""
    if out_UD.device.type == "cpu":  # there many times as fast as index_add_
        return out_UD.scatter_add_(0, unit_N.unsqueeze(1).expand_as(rows_ND), rows_ND)
    return out_UD.index_add_(0, unit_N, rows_ND)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    out, r = torch.empty_like(x, memory_format=torch.contiguous_format), cos.shape[-1]
    first, second = (slice(0, 2 * r, 2), slice(1, 2 * r, 2)) if interleaved else (slice(0, r), slice(r, 2 * r))
    a, b = x[..., first], x[..., second]
    torch.mul(a, cos, out=out[..., first]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=out[..., second]).addcmul_(a, sin)
    out[..., 2 * r :] = x[..., 2 * r :]
    return out


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """See `reference.rms_norm`."""
    return RmsNorm.apply(x, gain, eps)


def rotate(x_BSHh: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """See `reference.rotate`."""
    return Rotate.apply(x_BSHh, cos, sin, interleaved)


def combine_rows(rows_ND: Tensor, score_N: Tensor, unit_N: Tensor, units: int) -> Tensor:
    """See `reference.combine_rows`."""
    return CombineRows.apply(rows_ND, score_N, unit_N, units)


def route_topk(score_TE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See `reference.route_topk`; of equal scores it takes any, and in any order."""
    score_TK, expert_TK = score_TE.topk(k, dim=-1)
    return expert_TK, score_TK
