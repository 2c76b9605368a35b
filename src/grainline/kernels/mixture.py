"""What the backends of an expert layer have in common: two halves as plain functions, and the autograd between them.

A backend keeps one tensor of its own from forward to backward: gate and up before the nonlinearity, [N, 2F].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from grainline.kernels.deferred import WeightQueue


class Wants(NamedTuple):
    """Which gradients are wanted."""

    x: bool
    w13: bool
    w2: bool
    score: bool


class Gradients(NamedTuple):
    """Those of x, both weights and the scores; None where not wanted, or left for later."""

    x: Tensor | None
    w13: Tensor | None
    w2: Tensor | None
    score: Tensor | None


AddWeights = Callable[[Tensor | None, Tensor | None], None]
"""Adds what a backward left for later to the gradients of w13 and w2, where given."""
Later = Callable[[AddWeights], None]


class Forward(Protocol):
    """Entries sorted by expert → (output, gate and up before the nonlinearity [N, 2F] if to be kept).

    Without units, x has a row for each entry, and so has the output; else both have one for each unit, and the output
    of an entry is added to its unit's. Without scores all are 1. Weights of another dtype than x's are made x's.
    """

    def __call__(
        self,
        x_TD: Tensor,
        w13_E2FD: Tensor,
        w2_EDF: Tensor,
        score_N: Tensor | None,
        unit_N: Tensor | None,
        counts_E: Tensor,
        keep: bool,
    ) -> tuple[Tensor, Tensor | None]: ...


class Backward(Protocol):
    """Gradients, each in the dtype of what it belongs to. With `later`, weights' are left for it to have added."""

    def __call__(
        self,
        d_out_TD: Tensor,
        x_TD: Tensor,
        w13_E2FD: Tensor,
        w2_EDF: Tensor,
        score_N: Tensor | None,
        unit_N: Tensor | None,
        counts_E: Tensor,
        hidden_NG: Tensor,
        wants: Wants,
        later: Later | None = None,
    ) -> Gradients: ...


@dataclass(frozen=True)
class Halves:
    """One backend."""

    forward: Forward
    backward: Backward

    def __call__(
        self,
        x_TD: Tensor,
        w13_E2FD: Tensor,
        w2_EDF: Tensor,
        score_N: Tensor | None,
        unit_N: Tensor | None,
        counts_E: Tensor,
        queue: WeightQueue | None,
    ) -> Tensor:
        """The output, with gradients where they can be asked for; keeps nothing otherwise."""
        if needs_gradient(x_TD, w13_E2FD, w2_EDF, score_N):
            out: Tensor = Mixture.apply(self, x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, queue)
            return out
        return self.forward(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, keep=False)[0]


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Whether a backward can come."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


class Mixture(Function):
    """Both halves of a backend."""

    @staticmethod
    def forward(
        ctx: Any,
        halves: Halves,
        x_TD: Tensor,
        w13_E2FD: Tensor,
        w2_EDF: Tensor,
        score_N: Tensor | None,
        unit_N: Tensor | None,
        counts_E: Tensor,
        queue: WeightQueue | None,
    ) -> Tensor:
        out_TD, hidden_NG = halves.forward(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, keep=True)
        ctx.save_for_backward(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, hidden_NG)
        ctx.halves, ctx.queue = halves, queue
        if queue is not None:
            ctx.weights = w13_E2FD, w2_EDF  # the parameters themselves: their gradients are set, not returned
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_TD: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        wants = Wants(needs[1], needs[2], needs[3], needs[4])
        later = None
        if ctx.queue is not None and ctx.queue.is_open and (wants.w13 or wants.w2):
            w13, w2 = ctx.weights

            def later(add: AddWeights) -> None:
                ctx.queue.put(
                    lambda: add(gradient_of(w13) if wants.w13 else None, gradient_of(w2) if wants.w2 else None)
                )

        found = ctx.halves.backward(d_out_TD, *ctx.saved_tensors, wants, later)
        return None, found.x, found.w13, found.w2, found.score, None, None, None


def gradient_of(weight: Tensor) -> Tensor:
    """A weight's gradient, to be added to."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
