"""The expert layer by Triton kernels: SonicMoE's algorithm (arXiv 2512.14080, section 3) with its gathers in the loads.

Kept from forward to backward are x, gate and up before the nonlinearity, scores and lists. Each step is a custom op, so
that torch.compile takes it as it is, and what it needs no more is freed before the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.kernels.deferred import WeightQueue
from grainline.kernels.mixture import Gradients, Halves, Later, Wants
from grainline.kernels.stream.triton import why_not
from grainline.kernels.triton import launch
from grainline.kernels.triton.tiles import ShapeClass, Tile, tiles_for

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""Of products on a GPU; the interpreter takes float64 too."""


def forward(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `mixture.Forward`. Raises GrainlineError where Triton can't run, or not with this dtype."""
    _check(x_TD)
    score_N, unit_N, counts_E = _dense(score_N), _dense(unit_N), counts_E.contiguous()
    hidden_NG, act_NF = gate_and_up(x_TD.contiguous(), w13_E2FD, unit_N, counts_E, keep)
    y_ND = multiply(act_NF, w2_EDF, counts_E, transposed=True)
    del act_NF
    out_TD = y_ND if unit_N is None else sum_of_tokens(y_ND, score_N, unit_N, len(x_TD))
    if unit_N is None and score_N is not None:
        out_TD = y_ND * score_N.unsqueeze(1).to(y_ND.dtype)
    return out_TD, hidden_NG if keep else None


def backward(
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
) -> Gradients:
    """See `mixture.Backward`."""
    d_out_TD, x_TD, counts_E = d_out_TD.contiguous(), x_TD.contiguous(), counts_E.contiguous()
    score_N, unit_N = _dense(score_N), _dense(unit_N)
    d_hidden_NG, scaled_NF, d_score_N = d_activation(d_out_TD, w2_EDF, unit_N, score_N, hidden_NG, counts_E)
    d_w2 = d_w13 = d_x_TD = None
    if later is None:
        d_w2 = d_weight(d_out_TD, scaled_NF, unit_N, True, counts_E, w2_EDF) if wants.w2 else None
        del scaled_NF
        d_w13 = d_weight(d_hidden_NG, x_TD, unit_N, False, counts_E, w13_E2FD) if wants.w13 else None
    if wants.x:
        d_x_TD = multiply(d_hidden_NG, w13_E2FD.flatten(1, 2), counts_E, transposed=False)
        d_x_TD = d_x_TD if unit_N is None else sum_of_tokens(d_x_TD, None, unit_N, len(x_TD))
    if later is not None:

        def add(d_w13_E2FD: Tensor | None, d_w2_EDF: Tensor | None) -> None:
            if d_w2_EDF is not None:
                d_w2_EDF += d_weight(d_out_TD, scaled_NF, unit_N, True, counts_E, w2_EDF)
            if d_w13_E2FD is not None:
                d_w13_E2FD += d_weight(d_hidden_NG, x_TD, unit_N, False, counts_E, w13_E2FD)

        later(add)
    return Gradients(d_x_TD, d_w13, d_w2, d_score_N if wants.score and score_N is not None else None)


@torch.library.custom_op("grainline::triton_gate_and_up", mutates_args=())
def gate_and_up(
    x_TD: Tensor, w13_E2FD: Tensor, unit_N: Tensor | None, counts_E: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    """(gate and up [N, 2F], empty if not kept; silu(gate) · up [N, F])."""
    rows = len(x_TD if unit_N is None else unit_N)
    with launch.on(x_TD):
        tile = _tile("up", x_TD, w13_E2FD.shape[2], x_TD.shape[1], rows, counts_E)
        return launch.up(x_TD, _as(x_TD, w13_E2FD), unit_N, counts_E, tile, keep)


@gate_and_up.register_fake
def _(x_TD: Tensor, w13_E2FD: Tensor, unit_N: Tensor | None, counts_E: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    rows, F = (x_TD if unit_N is None else unit_N).shape[0], w13_E2FD.shape[2]
    return x_TD.new_empty(rows if keep else 0, 2 * F), x_TD.new_empty(rows, F)


@torch.library.custom_op("grainline::triton_multiply", mutates_args=())
def multiply(row_NK: Tensor, weight: Tensor, counts_E: Tensor, transposed: bool) -> Tensor:
    """row · weight of its expert, which is [E, K, out], or [E, out, K] if transposed → [N, out]."""
    weight = _as(row_NK, weight)
    kernel, hidden = ("down", row_NK.shape[1]) if transposed else ("d_rows", row_NK.shape[1] // 2)
    weight_EKO = weight.mT if transposed else weight
    with launch.on(row_NK):
        tile = _tile(kernel, row_NK, hidden, weight_EKO.shape[2], len(row_NK), counts_E)
        return launch.rows_times_weights(row_NK, weight_EKO, counts_E, tile)


@multiply.register_fake
def _(row_NK: Tensor, weight: Tensor, counts_E: Tensor, transposed: bool) -> Tensor:
    return row_NK.new_empty(row_NK.shape[0], weight.shape[1 if transposed else 2])


@torch.library.custom_op("grainline::triton_sum_of_tokens", mutates_args=())
def sum_of_tokens(row_ND: Tensor, score_N: Tensor | None, unit_N: Tensor, tokens: int) -> Tensor:
    """Each token's rows, times their scores if there are any, in the experts' order → [T, D]."""
    with launch.on(row_ND):
        return launch.add_up(row_ND, score_N, *launch.entries_of_tokens(unit_N, tokens))


@sum_of_tokens.register_fake
def _(row_ND: Tensor, score_N: Tensor | None, unit_N: Tensor, tokens: int) -> Tensor:
    return row_ND.new_empty(tokens, row_ND.shape[1])


@torch.library.custom_op("grainline::triton_d_activation", mutates_args=())
def d_activation(
    d_out_TD: Tensor,
    w2_EDF: Tensor,
    unit_N: Tensor | None,
    score_N: Tensor | None,
    hidden_NG: Tensor,
    counts_E: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(d hidden [N, 2F], score · activation [N, F], d score [N], empty without scores)."""
    _, D, F = w2_EDF.shape
    with launch.on(d_out_TD):
        tile = _tile("d_hidden", hidden_NG, F, D, len(hidden_NG), counts_E)
        w2_EDF = _as(hidden_NG, w2_EDF)
        return launch.activation_backward(d_out_TD, w2_EDF, unit_N, score_N, hidden_NG, counts_E, tile)


@d_activation.register_fake
def _(
    d_out_TD: Tensor,
    w2_EDF: Tensor,
    unit_N: Tensor | None,
    score_N: Tensor | None,
    hidden_NG: Tensor,
    counts_E: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    scaled_NF = hidden_NG.new_empty(hidden_NG.shape[0], w2_EDF.shape[2])
    return torch.empty_like(hidden_NG), scaled_NF, hidden_NG.new_empty(0) if score_N is None else score_N.clone()


@torch.library.custom_op("grainline::triton_d_weight", mutates_args=())
def d_weight(
    left: Tensor, right: Tensor, unit_N: Tensor | None, left_gathered: bool, counts_E: Tensor, weight: Tensor
) -> Tensor:
    """Σ over each expert's rows of left ⊗ right, shaped as the weight; one side's rows are those of the units."""
    outer = left.shape[1], right.shape[1]
    kernel, (D, F) = ("d_w2", outer) if left_gathered else ("d_w13", (outer[1], outer[0] // 2))
    rows = len(right if left_gathered else left)
    units = (unit_N, None) if left_gathered else (None, unit_N)
    with launch.on(left):
        tile = _tile(kernel, left, F, D, rows, counts_E)
        return launch.outer_products(left, right, counts_E, weight.dtype, tile, *units).view(weight.shape)


@d_weight.register_fake
def _(
    left: Tensor, right: Tensor, unit_N: Tensor | None, left_gathered: bool, counts_E: Tensor, weight: Tensor
) -> Tensor:
    return weight.new_empty(weight.shape)


def _check(x_TD: Tensor) -> None:
    reason = why_not(str(x_TD.device))
    if not reason and x_TD.device.type != "cpu" and x_TD.dtype not in DTYPES:
        reason = f"its products are of bfloat16, float16 or float32, not {str(x_TD.dtype).removeprefix('torch.')}"
    if reason:
        raise GrainlineError(f"experts by Triton: {reason}. Other backends: grouped, sonic, reference.")


def _tile(kernel: str, x: Tensor, hidden: int, width: int, rows: int, counts_E: Tensor) -> Tile:
    return tiles_for(ShapeClass.of(x.dtype, width, hidden, rows, len(counts_E)), x.device)[kernel]


def _dense(x_N: Tensor | None) -> Tensor | None:
    return None if x_N is None else x_N.contiguous()


def _as(x: Tensor, weight: Tensor) -> Tensor:
    return weight.to(x.dtype).contiguous()


HALVES = Halves(forward, backward)


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
    return HALVES(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, queue)


def swiglu_experts(
    rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor, queue: WeightQueue | None = None
) -> Tensor:
    """See `reference.swiglu_experts`."""
    return HALVES(rows_ND, w13_E2FD, w2_EDF, None, None, counts_E, queue)
