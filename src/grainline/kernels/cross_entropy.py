"""The output layer and its loss in one op, some rows at a time: the logits [N, V] never exist as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from grainline.kernels.deferred import WeightQueue, add_gradient

CHUNK_ELEMENTS = 1 << 20  # logits of one chunk: small enough for the last-level cache, large enough for the matmul


class LinearCrossEntropy(Function):
    """See `reference.linear_cross_entropy`. The gradient is made in the forward pass, while the logits are there."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, label_N: Tensor, queue: WeightQueue | None) -> Tensor:
        wants_x, wants_w = ctx.needs_input_grad[:2]
        w_VD = weight_VD.to(x_ND.dtype)
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        rows = max(64, CHUNK_ELEMENTS // w_VD.shape[0])
        d_x_ND = torch.empty_like(x_ND) if wants_x else None
        d_w_VD = torch.zeros_like(weight_VD) if wants_w else None
        total = x_ND.new_zeros((), dtype=wide)
        for start in range(0, x_ND.shape[0], rows):
            span = slice(start, start + rows)
            x_nD, kept_n = x_ND[span], label_N[span] != -100
            label_n1 = label_N[span].clamp_min(0).unsqueeze(1)
            logits_nV = (x_nD @ w_VD.t()).to(wide)
            # exp and its sum once, in place: these passes over memory cost as much as the products.
            logits_nV.sub_(logits_nV.amax(1, keepdim=True))
            of_label_n1 = logits_nV.gather(1, label_n1)
            z_n1 = logits_nV.exp_().sum(1, keepdim=True)
            total += (z_n1.log() - of_label_n1).squeeze(1).masked_fill_(~kept_n, 0.0).sum()
            if not (wants_x or wants_w):
                continue
            scale_n1 = kept_n.unsqueeze(1) / z_n1
            d_logits_nV = logits_nV.mul_(scale_n1)
            d_logits_nV.scatter_add_(1, label_n1, -kept_n.unsqueeze(1).to(logits_nV.dtype))
            d_logits_nV = d_logits_nV.to(x_ND.dtype)
            if d_x_ND is not None:
                torch.mm(d_logits_nV, w_VD, out=d_x_ND[span])
            if d_w_VD is not None and d_w_VD.dtype == d_logits_nV.dtype:
                d_w_VD.addmm_(d_logits_nV.t(), x_nD)
            elif d_w_VD is not None:
                d_w_VD += d_logits_nV.t() @ x_nD
        ctx.save_for_backward(d_x_ND, d_w_VD)
        ctx.queue = queue
        if queue is not None:
            ctx.weight = weight_VD
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        d_x_ND, d_w_VD = ctx.saved_tensors
        d_x_ND = None if d_x_ND is None else d_x_ND * d_total.to(d_x_ND.dtype)
        if d_w_VD is not None and ctx.queue is not None and ctx.queue.is_open:
            weight_VD = ctx.weight
            ctx.queue.put(lambda: add_gradient(weight_VD, d_w_VD * d_total.to(d_w_VD.dtype)))
            return d_x_ND, None, None, None
        return d_x_ND, None if d_w_VD is None else d_w_VD * d_total.to(d_w_VD.dtype), None, None


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, label_N: Tensor, queue: WeightQueue | None = None) -> Tensor:
    """See `reference.linear_cross_entropy`; with a queue, the weight's gradient can be added later."""
    return LinearCrossEntropy.apply(x_ND, weight_VD, label_N, queue)
