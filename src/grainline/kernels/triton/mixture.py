"""The expert layer by Triton kernels: SonicMoE's algorithm (arXiv 2512.14080, section 3) with its gathers in the loads.

Kept from forward to backward are x, gate and up before the nonlinearity, scores and lists, and no product is computed
again. What a step needs no more is freed before the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.kernels.mixture import Gradients, Halves, Later, Wants
from grainline.kernels.stream.triton import why_not
from grainline.kernels.triton import launch
from grainline.kernels.triton.tiles import ShapeClass, Tiles, tiles_for

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
    x_TD, score_N, unit_N, counts_E = x_TD.contiguous(), _dense(score_N), _dense(unit_N), counts_E.contiguous()
    tiles = _tiles(x_TD, w2_EDF, unit_N)
    with launch.on(x_TD):
        hidden_NG, act_NF = launch.up(x_TD, _as(x_TD, w13_E2FD), unit_N, counts_E, tiles["up"], keep)
        y_ND = launch.rows_times_weights(act_NF, _as(x_TD, w2_EDF).mT, counts_E, tiles["down"])
        del act_NF
        if unit_N is not None:
            y_ND = launch.add_up(y_ND, score_N, *launch.entries_of_tokens(unit_N, len(x_TD)))
        elif score_N is not None:
            y_ND *= score_N.unsqueeze(1)
    return y_ND, hidden_NG if keep else None


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
    spends: bool = False,
) -> Gradients:
    """See `mixture.Backward`."""
    d_out_TD, x_TD, counts_E = d_out_TD.contiguous(), x_TD.contiguous(), counts_E.contiguous()
    score_N, unit_N = _dense(score_N), _dense(unit_N)
    tiles = _tiles(x_TD, w2_EDF, unit_N)

    def outer(left: Tensor, right: Tensor, weight: Tensor, kernel: str, left_gathered: bool) -> Tensor:
        units = (unit_N, None) if left_gathered else (None, unit_N)
        with launch.on(x_TD):
            return launch.outer_products(left, right, counts_E, weight.dtype, tiles[kernel], *units).view(weight.shape)

    with launch.on(x_TD):
        d_hidden_NG, scaled_NF, d_score_N = launch.activation_backward(
            d_out_TD, _as(x_TD, w2_EDF), unit_N, score_N, hidden_NG, counts_E, tiles["d_hidden"]
        )
    d_w2 = d_w13 = d_x_TD = None
    if later is None:
        d_w2 = outer(d_out_TD, scaled_NF, w2_EDF, "d_w2", True) if wants.w2 else None
        del scaled_NF
        d_w13 = outer(d_hidden_NG, x_TD, w13_E2FD, "d_w13", False) if wants.w13 else None
    if wants.x:
        with launch.on(x_TD):
            w13_EGD = _as(x_TD, w13_E2FD).flatten(1, 2)
            d_x_TD = launch.rows_times_weights(d_hidden_NG, w13_EGD, counts_E, tiles["d_rows"])
            del w13_EGD
            if unit_N is not None:
                d_x_TD = launch.add_up(d_x_TD, None, *launch.entries_of_tokens(unit_N, len(x_TD)))
    if later is not None:
        later("w2", lambda place: place.add(outer(d_out_TD, scaled_NF, w2_EDF, "d_w2", True)))
        later("w13", lambda place: place.add(outer(d_hidden_NG, x_TD, w13_E2FD, "d_w13", False)))
    return Gradients(d_x_TD, d_w13, d_w2, d_score_N if wants.score and score_N is not None else None)


def _check(x_TD: Tensor) -> None:
    reason = why_not(str(x_TD.device))
    if not reason and x_TD.device.type != "cpu" and x_TD.dtype not in DTYPES:
        reason = f"its products are of bfloat16, float16 or float32, not {str(x_TD.dtype).removeprefix('torch.')}"
    if reason:
        raise GrainlineError(f"experts by Triton: {reason}. Other backends: grouped, sonic, reference.")


def _tiles(x_TD: Tensor, w2_EDF: Tensor, unit_N: Tensor | None) -> Tiles:
    (experts, D, F), rows = w2_EDF.shape, len(x_TD if unit_N is None else unit_N)
    return tiles_for(ShapeClass.of(x_TD.dtype, D, F, rows, experts), x_TD.device)


def _dense(x_N: Tensor | None) -> Tensor | None:
    return None if x_N is None else x_N.contiguous()


def _as(x: Tensor, weight: Tensor) -> Tensor:
    return weight.to(x.dtype).contiguous()


HALVES = Halves(forward, backward)
