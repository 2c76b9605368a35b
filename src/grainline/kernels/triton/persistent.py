"""The expert layer in one launch, forward only: FlashMoE's single kernel (arXiv 2506.04667) on one device, gate given.

Where a host that launches is what takes the time (few rows, many experts), this leaves one launch to it. Taking tasks
in one order from a counter stands for the paper's scheduler block, for which no worker is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.kernels.mixture import Mixture
from grainline.kernels.stream.triton import why_not
from grainline.kernels.triton import launch, mixture
from grainline.kernels.triton.tiles import ShapeClass, Tile, tiles_for

PROGRAMS_PER_UNIT = 2
"""Of the grid, for each SM; any number is correct."""
TOKENS, ENTRIES = 16, 8
"""Tokens of one task of sums, and entries that it reads at a time."""
INTERPRETED_PROGRAMS = 3


def expert_mixture(
    x_TD: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, score_N: Tensor, unit_N: Tensor, counts_E: Tensor
) -> Tensor:
    """See `reference.expert_mixture`. Where gradients are wanted it is the layer of `mixture.py`, in several launches.

    Raises GrainlineError where Triton can't run, or not with this dtype.
    """
    if torch.is_grad_enabled() and any(each.requires_grad for each in (x_TD, w13_E2FD, w2_EDF, score_N)):
        layer: Tensor = Mixture.apply(mixture.HALVES, x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, None)
        return layer
    reason = why_not(str(x_TD.device))
    if not reason and x_TD.device.type != "cpu" and x_TD.dtype not in mixture.DTYPES:
        reason = f"its products are of bfloat16, float16 or float32, not {str(x_TD.dtype).removeprefix('torch.')}"
    if reason:
        raise GrainlineError(f"experts by one Triton kernel: {reason}. Other backends: grouped, sonic, reference.")
    with launch.on(x_TD):
        return one_launch(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E)


def one_launch(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor,
    unit_N: Tensor,
    counts_E: Tensor,
    tile: Tile | None = None,
) -> Tensor:
    """`expert_mixture` on this device, with the first product's tile or another for all tasks."""
    from grainline.kernels.triton import persistent_kernel

    (experts, D, F), rows, tokens = w2_EDF.shape, len(unit_N), len(x_TD)
    if tile is None:
        tile = tiles_for(ShapeClass.of(x_TD.dtype, D, F, rows, experts), x_TD.device)["up"]
    x_TD = x_TD.contiguous()
    order_N, offsets_T = launch.entries_of_tokens(unit_N, tokens)
    most = (rows + min(experts, rows) * (tile.rows - 1)) // tile.rows
    columns = -(-D // tile.columns)
    state = torch.zeros(1 + most + columns, dtype=torch.int32, device=x_TD.device)
    act_NF, y_ND, out_TD = x_TD.new_empty(rows, F), x_TD.new_empty(rows, D), torch.empty_like(x_TD)
    if not tokens:
        return out_TD
    persistent_kernel.expert_layer[(programs(x_TD),)](
        x_TD,
        w13_E2FD.to(x_TD.dtype).contiguous(),
        w2_EDF.to(x_TD.dtype).contiguous(),
        unit_N.contiguous(),
        counts_E.contiguous(),
        score_N.contiguous(),
        order_N,
        offsets_T,
        act_NF,
        y_ND,
        out_TD,
        state,
        D,
        F,
        experts,
        tokens,
        most,
        EXPERTS=1 << max(0, experts - 1).bit_length(),
        TOKENS=TOKENS,
        ENTRIES=ENTRIES,
        **launch.constants(x_TD, tile),
    )
    return out_TD


def programs(x: Tensor) -> int:
    """That stay until all is done."""
    if x.device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return PROGRAMS_PER_UNIT * int(torch.cuda.get_device_properties(x.device).multi_processor_count)
