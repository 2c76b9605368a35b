"""Weight gradients that a backward leaves for later: B split into I and W (zero-bubble, arXiv 2401.10241, section 2).

A backward that runs inside `WeightQueue.collecting` computes the gradients of inputs, and queues the products that make
the gradients of weights, with the two tensors that each needs; everything else that the forward kept is freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Work = Callable[[], None]


class WeightQueue:
    """Shared by all that may defer, and by whoever runs the backward."""

    def __init__(self) -> None:
        self._open: list[Work] | None = None

    @contextmanager
    def collecting(self) -> Iterator[list[Work]]:
        """Backwards within put their work into the list; calling each of it adds to the weights' gradients."""
        before, self._open = self._open, []
        try:
            yield self._open
        finally:
            self._open = before

    @property
    def is_open(self) -> bool:
        """Whether work is to be put here, rather than done."""
        return self._open is not None

    def put(self, work: Work) -> None:
        """To be done later."""
        assert self._open is not None
        self._open.append(torch.no_grad()(work))


def add_gradient(weight: Tensor, gradient: Tensor) -> None:
    """Add to a weight's gradient what a backward would have added; `gradient` is the weight's to keep."""
    gradient = gradient.to(weight.dtype)
    if weight.grad is None:
        weight.grad = gradient
    else:
        weight.grad.add_(gradient)


class DeferredLinear(Function):
    """x · Wᵀ, where W's last dimension is x's and its others are the output's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, queue: WeightQueue) -> Tensor:
        w_OI = weight.flatten(0, -2).to(x.dtype)
        ctx.save_for_backward(x, w_OI)
        ctx.weight, ctx.queue = weight, queue  # the parameter itself: its gradient is set, not returned
        return F.linear(x, w_OI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, w_OI = ctx.saved_tensors
        weight: Tensor = ctx.weight
        d_x = d_out @ w_OI if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_x, None, None
        d_out_NO, x_NI = d_out.flatten(0, -2), x.flatten(0, -2)
        if not ctx.queue.is_open:
            return d_x, (d_out_NO.t() @ x_NI).view(weight.shape).to(weight.dtype), None

        def add() -> None:
            if weight.grad is not None and weight.dtype == x_NI.dtype:
                weight.grad.flatten(0, -2).addmm_(d_out_NO.t(), x_NI)
            else:
                add_gradient(weight, (d_out_NO.t() @ x_NI).view(weight.shape))

        ctx.queue.put(add)
        return d_x, None, None


def linear(x: Tensor, weight: Tensor, queue: WeightQueue) -> Tensor:
    """x […, in] · Wᵀ → […, out]; W is a parameter [out, in] or [n, m, in], which counts as [n·m, in]."""
    out: Tensor = DeferredLinear.apply(x, weight, queue)
    return out
