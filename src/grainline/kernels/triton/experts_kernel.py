"""SonicMoE's eight kernels, as five that are generic over what they multiply; imported only where triton is.

Rows are sorted by expert. A kernel over rows takes its tile from a table made on the device (`row_tiles`), so the host
never waits for the counts; a tile past the last one has expert −1 and does nothing. Rows of X and of dO are gathered by
index in the load, and no kernel scatters: what a token gets is gathered by the token (`add_up`), in a fixed order.
"""

import triton
import triton.language as tl


@triton.jit
def row_tiles(counts, table, experts, tiles, ROWS: tl.constexpr, EXPERTS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """table [3, tiles]: of each tile its expert (−1: no such tile), its first row, and the end of the expert's rows."""
    tile = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.arange(0, EXPERTS)
    count = tl.load(counts + expert, mask=expert < experts, other=0).to(tl.int32)
    needed = (count + ROWS - 1) // ROWS
    before = tl.cumsum(needed, 0)[None, :] <= tile[:, None]  # experts whose tiles all come earlier
    mine = tl.sum(before.to(tl.int32), 1)
    first_tile = tl.sum(tl.where(before, needed[None, :], 0), 1)
    first_row = tl.sum(tl.where(before, count[None, :], 0), 1)
    rows = tl.sum(tl.where(expert[None, :] == mine[:, None], count[None, :], 0), 1)
    inside = tile < tiles
    tl.store(table + tile, tl.where(mine < experts, mine, -1), mask=inside)
    tl.store(table + tiles + tile, first_row + (tile - first_tile) * ROWS, mask=inside)
    tl.store(table + 2 * tiles + tile, first_row + rows, mask=inside)


@triton.jit
def place(program, tiles, columns, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """(row tile, column tile): GROUP row tiles share a column of weights before the next column comes."""
    first = program // (GROUP * columns) * GROUP
    height = tl.minimum(tiles - first, GROUP)
    within = program % (GROUP * columns)
    return first + within % height, within // height


@triton.jit
def source_of(unit, row, there, GATHERED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Which rows the entries are: those of their units, or their own. One that isn't there reads row 0, for nothing."""
    if GATHERED:
        return tl.load(unit + row, mask=there, other=0).to(tl.int64)
    else:
        return tl.where(there, row, 0).to(tl.int64)


@triton.jit
def multiply(a, b, sums, WIDE: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """sums + a · b; the interpreter takes bfloat16 for the integers that it keeps it in, so there it is widened."""
    if PRECISION == "interpreted":
        return tl.dot(a.to(WIDE), b.to(WIDE), sums, out_dtype=WIDE)
    else:
        return tl.dot(a, b, sums, input_precision=PRECISION, out_dtype=WIDE)


@triton.jit
def up_and_activate(  # type: ignore[no-untyped-def]
    x, w13, unit, table, hidden, act, D, F, tiles,
    GATHERED: tl.constexpr, KEPT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """hidden [N, 2F] = x[unit] · w13[expert]ᵀ, written only if KEPT, and act [N, F] = silu(gate) · up of it."""
    tile, column = place(tl.program_id(0), tiles, tl.cdiv(F, COLUMNS), GROUP)
    expert = tl.load(table + tile).to(tl.int64)
    if expert < 0:
        return
    row = tl.load(table + tiles + tile) + tl.arange(0, ROWS)
    there = row < tl.load(table + 2 * tiles + tile)
    source = source_of(unit, row, there, GATHERED)
    f, k = column * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    inside = f < F
    x_at = x + source[:, None] * D + k[None, :]
    gate_at = w13 + expert * (2 * F * D) + f[None, :] * D + k[:, None]
    up_at = gate_at + F * D
    gate, up = tl.zeros((ROWS, COLUMNS), WIDE), tl.zeros((ROWS, COLUMNS), WIDE)
    for done in range(0, D, DEPTH):
        left = k < D - done
        rows = tl.load(x_at, mask=left[None, :], other=0.0)
        w1 = tl.load(gate_at, mask=left[:, None] & inside[None, :], other=0.0)
        w3 = tl.load(up_at, mask=left[:, None] & inside[None, :], other=0.0)
        gate = multiply(rows, w1, gate, WIDE, PRECISION)
        up = multiply(rows, w3, up, WIDE, PRECISION)
        x_at += DEPTH
        gate_at += DEPTH
        up_at += DEPTH
    narrow = act.dtype.element_ty
    gate, up = gate.to(narrow), up.to(narrow)
    wide_gate = gate.to(WIDE)  # rounded as the backward will find it
    value = wide_gate / (1 + tl.exp(-wide_gate)) * up.to(WIDE)
    stored = there[:, None] & inside[None, :]
    if KEPT:
        hidden_at = hidden + row.to(tl.int64)[:, None] * (2 * F) + f[None, :]
        tl.store(hidden_at, gate, mask=stored)
        tl.store(hidden_at + F, up, mask=stored)
    tl.store(act + row.to(tl.int64)[:, None] * F + f[None, :], value.to(narrow), mask=stored)


@triton.jit
def rows_times_weights(  # type: ignore[no-untyped-def]
    rows, weights, unit, table, out, K, N, expert_stride, k_stride, n_stride, tiles,
    GATHERED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out [rows, N] = rows [·, K] · weights[expert] as [K, N] by their strides; row i is rows[unit[i]] if GATHERED."""
    tile, column = place(tl.program_id(0), tiles, tl.cdiv(N, COLUMNS), GROUP)
    expert = tl.load(table + tile).to(tl.int64)
    if expert < 0:
        return
    row = tl.load(table + tiles + tile) + tl.arange(0, ROWS)
    there = row < tl.load(table + 2 * tiles + tile)
    source = source_of(unit, row, there, GATHERED)
    n, k = column * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    inside = n < N
    rows_at = rows + source[:, None] * K + k[None, :]
    weights_at = weights + expert * expert_stride + k[:, None] * k_stride + n[None, :] * n_stride
    sums = tl.zeros((ROWS, COLUMNS), WIDE)
    for done in range(0, K, DEPTH):
        left = k < K - done
        a = tl.load(rows_at, mask=left[None, :], other=0.0)
        b = tl.load(weights_at, mask=left[:, None] & inside[None, :], other=0.0)
        sums = multiply(a, b, sums, WIDE, PRECISION)
        rows_at += DEPTH
        weights_at += DEPTH * k_stride
    out_at = out + row.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(out_at, sums.to(out.dtype.element_ty), mask=there[:, None] & inside[None, :])


@triton.jit
def activation_backward(  # type: ignore[no-untyped-def]
    d_out, w2, unit, score, hidden, table, d_hidden, scaled, d_score, D, F, N, tiles,
    GATHERED: tl.constexpr, SCORED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From dA' = d_out[unit] · w2[expert], before the score, all that the activation's backward gives:

    d_hidden [N, 2F]; scaled [N, F] = score · A, for w2's gradient; and if SCORED, d_score [column tiles, N] = Σ over a
    tile's columns of dA' · A, which is ⟨d_out, y⟩ without y.
    """
    tile, column = place(tl.program_id(0), tiles, tl.cdiv(F, COLUMNS), GROUP)
    expert = tl.load(table + tile).to(tl.int64)
    if expert < 0:
        return
    row = tl.load(table + tiles + tile) + tl.arange(0, ROWS)
    there = row < tl.load(table + 2 * tiles + tile)
    source = source_of(unit, row, there, GATHERED)
    f, k = column * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    inside = f < F
    d_out_at = d_out + source[:, None] * D + k[None, :]
    w2_at = w2 + expert * (D * F) + k[:, None] * F + f[None, :]
    d_act = tl.zeros((ROWS, COLUMNS), WIDE)
    for done in range(0, D, DEPTH):
        left = k < D - done
        a = tl.load(d_out_at, mask=left[None, :], other=0.0)
        b = tl.load(w2_at, mask=left[:, None] & inside[None, :], other=0.0)
        d_act = multiply(a, b, d_act, WIDE, PRECISION)
        d_out_at += DEPTH
        w2_at += DEPTH * F
    stored = there[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * (2 * F) + f[None, :]
    gate = tl.load(hidden + at, mask=stored, other=0.0).to(WIDE)
    up = tl.load(hidden + at + F, mask=stored, other=0.0).to(WIDE)
    sigmoid = 1 / (1 + tl.exp(-gate))
    silu = gate * sigmoid
    act = silu * up
    if SCORED:
        tl.store(d_score + column.to(tl.int64) * N + row, tl.sum(d_act * act, 1), mask=there)
        weight = tl.load(score + row, mask=there, other=0.0).to(WIDE)[:, None]
        act = act * weight
        d_act = d_act * weight
    narrow = d_hidden.dtype.element_ty
    tl.store(scaled + row.to(tl.int64)[:, None] * F + f[None, :], act.to(narrow), mask=stored)
    # d silu(g) = σ(g) + silu(g)·(1 − σ(g))
    tl.store(d_hidden + at, (d_act * up * (sigmoid + silu * (1 - sigmoid))).to(narrow), mask=stored)
    tl.store(d_hidden + at + F, (d_act * silu).to(narrow), mask=stored)


@triton.jit
def outer_products(  # type: ignore[no-untyped-def]
    left, right, unit, ends, out, L, R,
    LEFT_GATHERED: tl.constexpr, RIGHT_GATHERED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out [E, L, R]: of each expert's rows leftᵀ · right, each gathered by `unit` or not; 0 where there are none.

    Tiles are ROWS × COLUMNS of out; DEPTH rows are taken at a time.
    """
    expert = tl.program_id(1).to(tl.int64)
    i, j = place(tl.program_id(0), tl.cdiv(L, ROWS), tl.cdiv(R, COLUMNS), GROUP)
    stop = tl.load(ends + expert)
    start = tl.load(ends + expert - 1, mask=expert > 0, other=0)
    a, b, n = i * ROWS + tl.arange(0, ROWS), j * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    sums = tl.zeros((ROWS, COLUMNS), WIDE)
    for first in range(start, stop, DEPTH):
        row = first + n
        there = row < stop
        left_row, right_row = source_of(unit, row, there, LEFT_GATHERED), source_of(unit, row, there, RIGHT_GATHERED)
        # Both are masked: 0 times what lies past the expert's rows would be NaN where that is infinite.
        x = tl.load(left + left_row[:, None] * L + a[None, :], mask=there[:, None] & (a < L)[None, :], other=0.0)
        y = tl.load(right + right_row[:, None] * R + b[None, :], mask=there[:, None] & (b < R)[None, :], other=0.0)
        sums = multiply(tl.trans(x), y, sums, WIDE, PRECISION)
    out_at = out + expert * L * R + a.to(tl.int64)[:, None] * R + b[None, :]
    tl.store(out_at, sums.to(out.dtype.element_ty), mask=(a < L)[:, None] & (b < R)[None, :])


@triton.jit
def add_up(  # type: ignore[no-untyped-def]
    rows, score, order, offsets, out, D,
    WEIGHTED: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """out[t] = Σ score · rows over a token's entries, order[offsets[t] : offsets[t + 1]], ENTRIES at a time."""
    token = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, stop = tl.load(offsets + token), tl.load(offsets + token + 1)
    sums = tl.zeros((COLUMNS,), WIDE)
    for first in range(start, stop, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        row = tl.load(order + entry, mask=entry < stop, other=0).to(tl.int64)
        inside = (entry < stop)[:, None] & (d < D)[None, :]
        value = tl.load(rows + row[:, None] * D + d[None, :], mask=inside, other=0.0).to(WIDE)
        if WEIGHTED:
            value = value * tl.load(score + row, mask=entry < stop, other=0.0).to(WIDE)[:, None]
        sums += tl.sum(value, 0)
    tl.store(out + token * D + d, sums.to(out.dtype.element_ty), mask=d < D)
