"""Starts the kernels on tensors: sizes, grids and buffers. No call here waits for the device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from grainline.kernels.triton.tiles import Tile

COMBINED = 1024, 8
"""Columns of one program of `add_up`, and entries that it reads at a time."""
TABLE_ELEMENTS = 4096  # of tiles × experts that one program of `row_tiles` looks at


def entries_of_tokens(unit_N: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """(rows in the order of their tokens, where each token's begin and end in it [T + 1]), both int32."""
    unit_N, order_N = unit_N.to(torch.int32).sort(stable=True)
    offsets_T = torch.searchsorted(unit_N, torch.arange(tokens + 1, device=unit_N.device, dtype=torch.int32))
    return order_N.to(torch.int32), offsets_T.to(torch.int32)


def row_tiles(counts_E: Tensor, rows: int, tile_rows: int) -> Tensor:
    """Table [3, tiles] of int32: expert (−1: none), first row and end of its rows; as many as there can be at most."""
    from grainline.kernels.triton import experts_kernel

    experts = len(counts_E)
    tiles = (rows + min(experts, rows) * (tile_rows - 1)) // tile_rows
    table = torch.empty(3, tiles, dtype=torch.int32, device=counts_E.device)
    wide = 1 << max(0, experts - 1).bit_length()
    block = max(1, min(64, TABLE_ELEMENTS // wide))
    experts_kernel.row_tiles[(-(-tiles // block),)](counts_E, table, experts, tiles, tile_rows, wide, block)
    return table


def up(
    x_TD: Tensor, w13_E2FD: Tensor, unit_N: Tensor | None, counts_E: Tensor, tile: Tile, keep: bool = True
) -> tuple[Tensor, Tensor]:
    """(gate and up [N, 2F], empty if not to be kept; silu(gate) · up [N, F]) of the entries' rows."""
    from grainline.kernels.triton import experts_kernel

    rows, F, D = len(x_TD if unit_N is None else unit_N), w13_E2FD.shape[2], x_TD.shape[1]
    hidden_NG, act_NF = x_TD.new_empty(rows if keep else 0, 2 * F), x_TD.new_empty(rows, F)
    if rows:
        table = row_tiles(counts_E, rows, tile.rows)
        experts_kernel.up_and_activate[_grid(table, F, tile)](
            x_TD,
            w13_E2FD,
            counts_E if unit_N is None else unit_N,
            table,
            hidden_NG if keep else act_NF,
            act_NF,
            D,
            F,
            table.shape[1],
            GATHERED=unit_N is not None,
            KEPT=keep,
            **constants(x_TD, tile),
        )
    return hidden_NG, act_NF


def rows_times_weights(
    rows_NK: Tensor, weights_EKN: Tensor, counts_E: Tensor, tile: Tile, unit_N: Tensor | None = None
) -> Tensor:
    """rows · weights[expert] → [rows, N]; weights by any strides. With units, row i is rows[unit[i]]."""
    from grainline.kernels.triton import experts_kernel

    rows, (_, K, columns) = len(rows_NK) if unit_N is None else len(unit_N), weights_EKN.shape
    out = rows_NK.new_empty(rows, columns)
    if rows:
        table = row_tiles(counts_E, rows, tile.rows)
        experts_kernel.rows_times_weights[_grid(table, columns, tile)](
            rows_NK,
            weights_EKN,
            counts_E if unit_N is None else unit_N,
            table,
            out,
            K,
            columns,
            *weights_EKN.stride(),
            table.shape[1],
            GATHERED=unit_N is not None,
            **constants(rows_NK, tile),
        )
    return out


def activation_backward(
    d_out_TD: Tensor,
    w2_EDF: Tensor,
    unit_N: Tensor | None,
    score_N: Tensor | None,
    hidden_NG: Tensor,
    counts_E: Tensor,
    tile: Tile,
) -> tuple[Tensor, Tensor, Tensor]:
    """(d hidden [N, 2F], score · activation [N, F], d score [N], empty without scores)."""
    from grainline.kernels.triton import experts_kernel

    rows, (_, D, F) = len(hidden_NG), w2_EDF.shape
    d_hidden_NG, scaled_NF = torch.empty_like(hidden_NG), hidden_NG.new_empty(rows, F)
    sums = torch.promote_types(hidden_NG.dtype, torch.float32)
    parts_CN = torch.empty(-(-F // tile.columns), rows if score_N is not None else 0, dtype=sums, device=w2_EDF.device)
    if rows:
        table = row_tiles(counts_E, rows, tile.rows)
        experts_kernel.activation_backward[_grid(table, F, tile)](
            d_out_TD,
            w2_EDF,
            counts_E if unit_N is None else unit_N,
            hidden_NG if score_N is None else score_N,
            hidden_NG,
            table,
            d_hidden_NG,
            scaled_NF,
            parts_CN,
            D,
            F,
            rows,
            table.shape[1],
            GATHERED=unit_N is not None,
            SCORED=score_N is not None,
            **constants(hidden_NG, tile),
        )
    return d_hidden_NG, scaled_NF, parts_CN.sum(0).to(hidden_NG.dtype if score_N is None else score_N.dtype)


def outer_products(
    left: Tensor,
    right: Tensor,
    counts_E: Tensor,
    dtype: torch.dtype,
    tile: Tile,
    left_unit_N: Tensor | None = None,
    right_unit_N: Tensor | None = None,
) -> Tensor:
    """Σ over each expert's rows of left ⊗ right → [E, L, R] in `dtype`; a side with units has a row for each."""
    from grainline.kernels.triton import experts_kernel

    experts, L, R = len(counts_E), left.shape[1], right.shape[1]
    out_ELR = torch.empty(experts, L, R, dtype=dtype, device=left.device)
    ends_E = counts_E.cumsum(0).to(torch.int32)
    unit_N = right_unit_N if left_unit_N is None else left_unit_N
    experts_kernel.outer_products[(-(-L // tile.rows) * -(-R // tile.columns), experts)](
        left,
        right,
        ends_E if unit_N is None else unit_N,
        ends_E,
        out_ELR,
        L,
        R,
        LEFT_GATHERED=left_unit_N is not None,
        RIGHT_GATHERED=right_unit_N is not None,
        **constants(left, tile),
    )
    return out_ELR


def add_up(rows_ND: Tensor, score_N: Tensor | None, order_N: Tensor, offsets_T: Tensor) -> Tensor:
    """Each token's rows, times their scores if there are any, summed → [T, D]."""
    from grainline.kernels.triton import experts_kernel

    tokens, D = len(offsets_T) - 1, rows_ND.shape[1]
    out_TD = rows_ND.new_empty(tokens, D)
    most, entries = COMBINED
    columns = min(most, 1 << (D - 1).bit_length())
    if tokens:
        experts_kernel.add_up[(tokens, -(-D // columns))](
            rows_ND,
            rows_ND if score_N is None else score_N,
            order_N,
            offsets_T,
            out_TD,
            D,
            WEIGHTED=score_N is not None,
            ENTRIES=entries,
            COLUMNS=columns,
            WIDE=wide(rows_ND.dtype),
        )
    return out_TD


def on(x: Tensor) -> AbstractContextManager[object]:
    """Triton starts kernels on the current device, which needn't be the tensor's."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def _grid(table: Tensor, columns: int, tile: Tile) -> tuple[int]:
    return (table.shape[1] * -(-columns // tile.columns),)


def wide(dtype: torch.dtype) -> object:
    """What sums are in, as triton calls it."""
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


def _precision(x: Tensor) -> str:
    """Of products of float32, as torch's own are; 16-bit ones don't care."""
    if x.device.type == "cpu":
        return "interpreted"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def constants(x: Tensor, tile: Tile) -> dict[str, object]:
    """What every kernel over tiles is told of its tile, besides sizes."""
    return {
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "DEPTH": tile.depth,
        "GROUP": tile.group,
        "WIDE": wide(x.dtype),
        "PRECISION": _precision(x),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
