"""The whole expert layer in one launch: programs that stay take tasks from one counter; imported only where triton is.

Tasks stand in one order: all tiles of the first product, with the activation; then, a column of tiles after another,
those of the second; the sums over a column's tokens stand one column behind. A task waits for earlier ones alone, and
each of those has been taken by a program that is running: nothing waits for a program that has no place yet, whatever
the grid. Sums go through each token's entries in a fixed order, so that the same input gives the same bits.
"""

import triton
import triton.language as tl

from grainline.kernels.triton.experts_kernel import multiply, place


@triton.jit
def wait(flag, wanted):  # type: ignore[no-untyped-def]
    """Until the flag has counted so far; what was stored before the last count can then be read."""
    while tl.atomic_add(flag, 0, sem="acquire") < wanted:
        pass
    tl.debug_barrier()


@triton.jit
def count_up(flag):  # type: ignore[no-untyped-def]
    """One more; after all stores of this program so far."""
    tl.debug_barrier()
    tl.atomic_add(flag, 1, sem="release")


@triton.jit
def find(tile, count, needed, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """(expert, first row, end of the expert's rows) of a row tile."""
    before = tl.cumsum(needed, 0) <= tile  # experts whose tiles all come earlier
    expert = tl.sum(before.to(tl.int32), 0)
    first = tl.sum(tl.where(before, count, 0), 0)
    rows = tl.sum(tl.where(tl.arange(0, count.shape[0]) == expert, count, 0), 0)
    start = first + (tile - tl.sum(tl.where(before, needed, 0), 0)) * ROWS
    return expert.to(tl.int64), start, first + rows


@triton.jit
def up_tile(  # type: ignore[no-untyped-def]
    x, w13, unit, act, expert, start, end, column, D, F,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """act = silu(x[unit] · w1ᵀ) · (x[unit] · w3ᵀ) of a tile."""
    row = start + tl.arange(0, ROWS)
    there = row < end
    source = tl.load(unit + row, mask=there, other=0).to(tl.int64)
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
    gate, up = gate.to(narrow).to(WIDE), up.to(narrow).to(WIDE)  # rounded as other backends round them
    value = gate / (1 + tl.exp(-gate)) * up
    tl.store(act + row.to(tl.int64)[:, None] * F + f[None, :], value.to(narrow), mask=there[:, None] & inside[None, :])


@triton.jit
def down_tile(  # type: ignore[no-untyped-def]
    act, w2, y, expert, start, end, column, D, F,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y = act · w2ᵀ of a tile."""
    row = start + tl.arange(0, ROWS)
    there = row < end
    safe = tl.where(there, row, start).to(tl.int64)
    d, k = column * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    inside = d < D
    act_at = act + safe[:, None] * F + k[None, :]
    w2_at = w2 + expert * (D * F) + d[None, :] * F + k[:, None]
    sums = tl.zeros((ROWS, COLUMNS), WIDE)
    for done in range(0, F, DEPTH):
        left = k < F - done
        a = tl.load(act_at, mask=left[None, :], other=0.0)
        b = tl.load(w2_at, mask=left[:, None] & inside[None, :], other=0.0)
        sums = multiply(a, b, sums, WIDE, PRECISION)
        act_at += DEPTH
        w2_at += DEPTH
    y_at = y + row.to(tl.int64)[:, None] * D + d[None, :]
    tl.store(y_at, sums.to(y.dtype.element_ty), mask=there[:, None] & inside[None, :])


@triton.jit
def combine_tile(  # type: ignore[no-untyped-def]
    y, score, order, offsets, out, block, column, D, tokens,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, ENTRIES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """out[t] = Σ score · y over a token's entries, for some tokens and columns."""
    d = column * COLUMNS + tl.arange(0, COLUMNS)
    for i in range(TOKENS):
        token = block.to(tl.int64) * TOKENS + i
        real = token < tokens
        start, stop = tl.load(offsets + token, mask=real, other=0), tl.load(offsets + token + 1, mask=real, other=0)
        sums = tl.zeros((COLUMNS,), WIDE)
        for first in range(start, stop, ENTRIES):
            entry = first + tl.arange(0, ENTRIES)
            row = tl.load(order + entry, mask=entry < stop, other=0).to(tl.int64)
            weight = tl.load(score + row, mask=entry < stop, other=0.0).to(WIDE)
            inside = (entry < stop)[:, None] & (d < D)[None, :]
            value = tl.load(y + row[:, None] * D + d[None, :], mask=inside, other=0.0).to(WIDE)
            sums += tl.sum(value * weight[:, None], 0)
        tl.store(out + token * D + d, sums.to(out.dtype.element_ty), mask=(d < D) & real)


@triton.jit
def expert_layer(  # type: ignore[no-untyped-def]
    x, w13, w2, unit, counts, score, order, offsets, act, y, out, state, D, F, experts, tokens, most,
    EXPERTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    TOKENS: tl.constexpr, ENTRIES: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """state, all 0: the next task; of each of `most` row tiles how many of its first product's are done; of each column
    of the second's how many are.
    """
    expert_id = tl.arange(0, EXPERTS)
    count = tl.load(counts + expert_id, mask=expert_id < experts, other=0).to(tl.int32)
    needed = (count + ROWS - 1) // ROWS
    tiles = tl.sum(needed, 0)
    across, columns, blocks = tl.cdiv(F, COLUMNS), tl.cdiv(D, COLUMNS), tl.cdiv(tokens, TOKENS)
    ups, group = tiles * across, tiles + blocks
    task = tl.atomic_add(state, 1)
    while task < ups + columns * group:
        if task < ups:
            tile, column = place(task, tiles, across, GROUP)
            expert, start, end = find(tile, count, needed, ROWS)
            up_tile(x, w13, unit, act, expert, start, end, column, D, F, ROWS, COLUMNS, DEPTH, WIDE, PRECISION)
            count_up(state + 1 + tile)
        else:
            rest = task - ups
            column = (rest - tiles) // group  # of sums; the second product is a column ahead
            within = rest - tiles - column * group
            if rest < tiles:
                column = 0
                within = rest
            elif (within < tiles) & (column < columns - 1):
                column += 1
            else:
                within += tl.where(column < columns - 1, 0, tiles)
            if within < tiles:
                expert, start, end = find(within, count, needed, ROWS)
                wait(state + 1 + within, across)
                down_tile(act, w2, y, expert, start, end, column, D, F, ROWS, COLUMNS, DEPTH, WIDE, PRECISION)
                count_up(state + 1 + most + column)
            else:
                wait(state + 1 + most + column, tiles)
                combine_tile(
                    y, score, order, offsets, out, within - tiles, column, D, tokens, TOKENS, COLUMNS, ENTRIES, WIDE
                )
        task = tl.atomic_add(state, 1)
