"""The output layer and its loss in one op, some rows at a time: the logits [N, V] never exist as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from grainline.kernels.deferred import WeightQueue, add_gradient

CHUNK_ELEMENTS, CHUNK_ROWS = 1 << 22, 256
"""Logits of one chunk, and how many rows it has at least: each chunk reads and writes the weight's whole gradient."""

Softmax = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
"""(logits [n, V], labels, losses to be written, whether the gradient is wanted) → the gradient of the logits, which may
lie where they were."""


def softmax_(logits_nV: Tensor, label_n: Tensor, loss_n: Tensor, gradient: bool) -> Tensor:
    """See `Softmax`."""
    kept_n, label_n1 = label_n != -100, label_n.clamp_min(0).unsqueeze(1)
    wide_nV = logits_nV.to(loss_n.dtype)
    # exp and its sum once, in place: these passes over memory cost as much as the products.
    wide_nV.sub_(wide_nV.amax(1, keepdim=True))
    of_label_n1 = wide_nV.gather(1, label_n1)
    z_n1 = wide_nV.exp_().sum(1, keepdim=True)
    loss_n.copy_((z_n1.log() - of_label_n1).squeeze(1).masked_fill_(~kept_n, 0.0))
    if gradient:
        wide_nV.mul_(kept_n.unsqueeze(1) / z_n1)
        wide_nV.scatter_add_(1, label_n1, -kept_n.unsqueeze(1).to(wide_nV.dtype))
    return wide_nV.to(logits_nV.dtype)


class LinearCrossEntropy(Function):
    """See `reference.linear_cross_entropy`. The gradient is made in the forward pass, while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, label_N: Tensor, queue: WeightQueue | None, softmax: Softmax
    ) -> Tensor:
        wants_x, wants_w = ctx.needs_input_grad[:2]
        w_VD = weight_VD.to(x_ND.dtype)
        rows = max(CHUNK_ROWS, CHUNK_ELEMENTS // w_VD.shape[0])
        d_x_ND = torch.empty_like(x_ND) if wants_x else None
        d_w_VD = torch.zeros_like(weight_VD) if wants_w else None
        loss_N = x_ND.new_empty(x_ND.shape[0], dtype=torch.promote_types(x_ND.dtype, torch.float32))
        buffer_nV = x_ND.new_empty(min(rows, x_ND.shape[0]), w_VD.shape[0])
        for start in range(0, x_ND.shape[0], rows):
            span = slice(start, start + rows)
            x_nD = x_ND[span]
            logits_nV = torch.mm(x_nD, w_VD.t(), out=buffer_nV[: x_nD.shape[0]])
            d_logits_nV = softmax(logits_nV, label_N[span], loss_N[span], wants_x or wants_w)
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
        return loss_N.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        d_x_ND, d_w_VD = ctx.saved_tensors
        d_x_ND = None if d_x_ND is None else d_x_ND * d_total.to(d_x_ND.dtype)
        if d_w_VD is not None and ctx.queue is not None and ctx.queue.is_open:
            weight_VD = ctx.weight
            ctx.queue.put(lambda: add_gradient(weight_VD, d_w_VD * d_total.to(d_w_VD.dtype)))
            return d_x_ND, None, None, None, None
        return d_x_ND, None if d_w_VD is None else d_w_VD * d_total.to(d_w_VD.dtype), None, None, None


def linear_cross_entropy(
    x_ND: Tensor,
    weight_VD: Tensor,
    label_N: Tensor,
    queue: WeightQueue | None = None,
    softmax: Softmax = softmax_,
) -> Tensor:
    """See `reference.linear_cross_entropy`; with a queue, the weight's gradient can be added later."""
    return LinearCrossEntropy.apply(x_ND, weight_VD, label_N, queue, softmax)
