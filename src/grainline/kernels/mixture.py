"""What the backends of an expert layer have in common: two halves as plain functions, and the autograd between them.

A backend keeps one tensor of its own from forward to backward: gate and up before the nonlinearity, [N, 2F].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from grainline.kernels.deferred import WeightQueue
from grainline.kernels.sink import Place, is_shared, open_sink, place_of


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


class Later(Protocol):
    """Takes the making of a weight's gradient, and has it done at its time: perhaps at once, or never."""

    def __call__(self, weight: Literal["w13", "w2"], make: Callable[[Place], object]) -> None: ...


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
    """Gradients, each in the dtype of what it belongs to. With `later`, weights' are left for it to have made.

    `spends`: nobody else needs `hidden_NG`, so its memory can be used.
    """

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
        spends: bool = False,
    ) -> Gradients: ...


@dataclass(frozen=True)
class Halves:
    """One backend."""

    forward: Forward
    backward: Backward
    sinks: bool = False
    """Whether it makes weights' gradients in any place as fast as in a new one: then an open `GradientSink` is used."""

    def mixture(
        self,
        x_TD: Tensor,
        w13_E2FD: Tensor,
        w2_EDF: Tensor,
        score_N: Tensor,
        unit_N: Tensor,
        counts_E: Tensor,
        queue: WeightQueue | None = None,
    ) -> Tensor:
        """See `reference.expert_mixture`."""
        return self._run(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, queue)

    def rows(
        self, rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor, queue: WeightQueue | None = None
    ) -> Tensor:
        """See `reference.swiglu_experts`."""
        return self._run(rows_ND, w13_E2FD, w2_EDF, None, None, counts_E, queue)

    def _run(
        self,
        x_TD: Tensor,
        w13_E2FD: Tensor,
        w2_EDF: Tensor,
        score_N: Tensor | None,
        unit_N: Tensor | None,
        counts_E: Tensor,
        queue: WeightQueue | None,
    ) -> Tensor:
        """With gradients where they can be asked for; keeps nothing otherwise."""
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
        # The parameters themselves: their gradients can be set, rather than returned.
        ctx.weights = {name: w for name, w in (("w13", w13_E2FD), ("w2", w2_EDF)) if queue is not None or w.is_leaf}
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out_TD: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        wants = Wants(needs[1], needs[2], needs[3], needs[4])
        *saved, hidden_NG = ctx.saved_tensors
        spends = _is_last(ctx) and not is_shared(hidden_NG)
        found = ctx.halves.backward(d_out_TD, *saved, hidden_NG, wants, _later(ctx, wants), spends)
        return None, found.x, found.w13, found.w2, found.score, None, None, None


def _is_last(ctx: Any) -> bool:
    """Lets go of what was saved, and says whether it could: not where the graph is to be kept."""
    ctx.maybe_clear_saved_tensors()
    try:
        return not ctx.saved_tensors
    except RuntimeError:
        return True


def _later(ctx: Any, wants: Wants) -> Later | None:
    """By the queue, or at once into places of the sink; None where gradients are to be returned."""
    weights: dict[str, Tensor] = ctx.weights
    wanted = {name for name, is_wanted in (("w13", wants.w13), ("w2", wants.w2)) if is_wanted}
    if ctx.queue is not None and ctx.queue.is_open and wanted:

        def queued(weight: Literal["w13", "w2"], make: Callable[[Place], object]) -> None:
            if weight in wanted:
                ctx.queue.put(lambda: make(place_of(weights[weight])))

        return queued
    sink = open_sink() if ctx.halves.sinks and wanted and wanted <= weights.keys() else None
    if sink is None or not all(sink.takes(weights[name]) for name in wanted):
        return None

    def at_once(weight: Literal["w13", "w2"], make: Callable[[Place], object]) -> None:
        if weight in wanted:
            make(sink.place(weights[weight]))

    return at_once
