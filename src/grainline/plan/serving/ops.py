"""The ops of serving: FLOPs of products, bytes through memory, and into how many pieces a device can share the work.

Each op is one kernel on one rank, as engines have them: a product, all experts of a layer, attention over new tokens or
over a cache, a collective. `sizes` are what a measured op is found again by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from grainline.models.count import WIDTH, touched_experts

Family = Literal[
    "product", "experts", "prefill", "decode", "move", "all-reduce", "all-gather", "reduce-scatter", "all-to-all"
]
TILE = 128
"""Rows and columns of output that one unit computes at a time."""
DEPTH = 256
"""Inner terms that are worth a unit of their own where there are more units than tiles (split-K)."""
KEYS = 512
"""Cached positions that are worth a unit of their own (split-KV, FlashDecoding)."""
VALUE = 2
"""Bytes of a value on its way between ops."""


@dataclass(frozen=True)
class Op:
    """One kernel's work on one rank."""

    family: Family
    flops: float  # of matrix products
    bytes: float  # read and written; of a collective, of its whole buffer
    dtype: str  # of the products
    weights: str  # held in, or the cache
    tiles: float  # pieces of output
    splits: float  # into how many each piece can be split further
    sizes: tuple[float, ...]
    ranks: int = 1  # of a collective


def product(rows: float, columns: float, inner: float, dtype: str, weights: str, copies: int = 1) -> Op:
    """rows × inner by inner × columns, `copies` of it at once; computed in `dtype`, weights held in `weights`."""
    flops = 2 * copies * rows * columns * inner
    values = WIDTH[dtype] if WIDTH[dtype] < VALUE else VALUE
    moved = copies * (columns * inner * WIDTH[weights] + rows * inner * values + rows * columns * VALUE)
    tiles = copies * math.ceil(rows / TILE) * math.ceil(columns / TILE)
    sizes = (rows, columns, inner) if copies == 1 else (rows, columns, inner, copies)
    return Op("product", flops, moved, dtype, weights, tiles, max(1.0, inner / DEPTH), sizes)


def experts(
    tokens: float, size: float, hidden: float, pool: int, top_k: int, dtype: str, weights: str, *, local: float = 1.0
) -> Op:
    """Gate, up and down of all experts of a layer: T tokens choose top_k of `pool`, of which a share `local` is here.

    Weights are read of the experts that anybody chose, E·(1 − (1 − K/E)^T) of them; their rows are computed in whole
    tiles of at least 16.
    """
    touched = max(1.0, touched_experts(pool, top_k, tokens) * local)
    rows = tokens * top_k * local
    each = max(rows / touched, 1.0)
    tile = min(TILE, max(16, 2 ** math.ceil(math.log2(each))))
    computed = touched * math.ceil(each / tile) * tile
    values = WIDTH[dtype] if WIDTH[dtype] < VALUE else VALUE
    moved = touched * 3 * size * hidden * WIDTH[weights]
    moved += rows * (size * (values + 2 * VALUE) + hidden * (2 * VALUE + values + VALUE)) + tokens * size * VALUE
    tiles = touched * math.ceil(each / tile) * math.ceil(2 * hidden / TILE)
    return Op(
        "experts",
        6 * computed * size * hidden,
        moved,
        dtype,
        weights,
        tiles,
        max(1.0, size / DEPTH),
        (tokens, size, hidden, pool, top_k, local),
    )


def prefill(
    sequences: float,
    new: float,
    past: float,
    heads: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    dtype: str,
    cache: str,
    window: int | None = None,
) -> Op:
    """Causal attention of `new` tokens of each sequence to themselves and to `past` tokens in the cache."""
    seen = past + (new + min(new, TILE)) / 2  # tiles on the diagonal are computed whole
    if window is not None and window < past + new:
        seen = min(seen, window)
    flops = 2 * sequences * heads * (key_dim + value_dim) * new * seen
    held = past if window is None else min(past, window)
    moved = sequences * new * (heads * (key_dim + value_dim) + kv_heads * (key_dim + value_dim)) * VALUE
    moved += sequences * kv_heads * (key_dim + value_dim) * (held + new) * WIDTH[cache]
    tiles = sequences * heads * math.ceil(new / TILE)
    sizes = (sequences, new, past, heads, kv_heads, key_dim, window or 0)
    return Op("prefill", flops, moved, dtype, cache, tiles, 1.0, sizes)


def decode(
    sequences: float,
    context: float,
    heads: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    dtype: str,
    cache: str,
    window: int | None = None,
    *,
    latent: bool = False,
) -> Op:
    """One new token of each sequence attends to `context` cached ones. `latent` (MLA): values are part of the keys."""
    seen = context if window is None else min(context, window)
    flops = 2 * sequences * heads * (key_dim + value_dim) * seen
    row = key_dim if latent else key_dim + value_dim
    moved = sequences * (kv_heads * row * seen * WIDTH[cache] + heads * (key_dim + value_dim) * VALUE)
    sizes = (sequences, context, heads, kv_heads, key_dim, window or 0)
    return Op("decode", flops, moved, dtype, cache, sequences * kv_heads, max(1.0, seen / KEYS), sizes)


def move(size_bytes: float) -> Op:
    """What only moves: norms, sums, activations."""
    return Op("move", 0.0, size_bytes, "bfloat16", "bfloat16", math.inf, 1.0, (size_bytes,))


def collective(family: Family, size_bytes: float, ranks: int) -> Op:
    """Over a whole buffer of so many bytes, on `ranks` devices of a node."""
    return Op(family, 0.0, size_bytes, "bfloat16", "bfloat16", math.inf, 1.0, (size_bytes, ranks), ranks)
