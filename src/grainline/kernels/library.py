"""The expert layer as custom ops of PyTorch, so that torch.compile and torch.export take it as one node of a graph.

How many rows an expert gets is known only as it runs, but no shape depends on it. Without a compiler nothing comes by
here: the wrapping of an op takes longer than its direct call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grainline.kernels import grouped, native_experts, sonic
from grainline.kernels.mixture import Halves, Wants, needs_gradient
from grainline.kernels.triton import mixture as triton

HALVES: dict[str, Halves] = {
    "sonic": sonic.HALVES,
    "native": native_experts.HALVES,
    "grouped": grouped.HALVES,
    "triton": triton.HALVES,
}
"""Backends of the expert ops that come as two halves; others are compiled as they are."""


@torch.library.custom_op("grainline::experts", mutates_args=())
def experts(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
    backend: str,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """See `mixture.Forward`; what isn't kept is empty."""
    out_TD, hidden_NG = HALVES[backend].forward(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, keep)
    return out_TD, x_TD.new_empty(0, 2 * w2_EDF.shape[2]) if hidden_NG is None else hidden_NG


@experts.register_fake
def _(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
    backend: str,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    rows = x_TD.shape[0] if unit_N is None else unit_N.shape[0]
    return torch.empty_like(x_TD), x_TD.new_empty(rows if keep else 0, 2 * w2_EDF.shape[2])


@torch.library.custom_op("grainline::experts_backward", mutates_args=())
def experts_backward(
    d_out_TD: Tensor,
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
    hidden_NG: Tensor,
    backend: str,
    wants: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `mixture.Backward`; gradients that aren't wanted are empty."""
    found = HALVES[backend].backward(
        d_out_TD, x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, hidden_NG, Wants(*wants)
    )
    d_x, d_w13, d_w2, d_score = (
        each if wanted and each is not None else x_TD.new_empty(0) for each, wanted in zip(found, wants, strict=True)
    )
    return d_x, d_w13, d_w2, d_score


@experts_backward.register_fake
def _(
    d_out_TD: Tensor,
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
    hidden_NG: Tensor,
    backend: str,
    wants: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_x, d_w13, d_w2, d_score = (
        torch.empty_like(each) if wanted and each is not None else x_TD.new_empty(0)
        for each, wanted in zip((x_TD, w13_E2FD, w2_EDF, score_N), wants, strict=True)
    )
    return d_x, d_w13, d_w2, d_score


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.backend, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, d_out_TD: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    wants = list(ctx.needs_input_grad[:4])
    found = experts_backward(d_out_TD.contiguous(), *ctx.saved_tensors, ctx.backend, wants)
    gradients = [each if wanted else None for each, wanted in zip(found, wants, strict=True)]
    return (*gradients, None, None, None, None)


experts.register_autograd(_backward, setup_context=_save)


def compiled(
    backend: str,
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
) -> Tensor:
    """The output of a backend's forward, by the custom op."""
    keep = needs_gradient(x_TD, w13_E2FD, w2_EDF, score_N)
    out: Tensor = experts(x_TD.contiguous(), w13_E2FD, w2_EDF, score_N, unit_N, counts_E, backend, keep)[0]
    return out
