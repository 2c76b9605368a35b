"""Cells of a fixed size: who gets a slot, what a heap of them takes, and what padding costs (FlashMoE, section 3).

The authors' slots come from atomic counters in the order of thread blocks, so that who is dropped changes from run to
run. Here slots are ordered by (score, token): the layer is reproducible, and the lowest scores are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from grainline.documents import GrainlineError

HEAP_COPIES = 4
"""Two rounds, dispatch and combine, of two cells, outgoing and incoming."""


def slots(expert_N: NDArray[np.integer], score_N: NDArray[np.floating], token_N: NDArray[np.integer],
          capacity: int) -> NDArray[np.int64]:  # fmt: skip
    """The slot of each entry in its expert's cell, by falling score, then token; −1 for what finds none."""
    if capacity < 0:
        raise GrainlineError(f"a capacity of {capacity} rows: 0 or more, please.")
    order = np.lexsort((token_N, -np.asarray(score_N), expert_N))
    sorted_expert = np.asarray(expert_N)[order]
    first = np.searchsorted(sorted_expert, sorted_expert, side="left")
    place = np.arange(len(order)) - first
    found = np.empty(len(order), np.int64)
    found[order] = np.where(place < capacity, place, -1)
    return found


def cell_rows(tokens: int, experts: int, tile_rows: int = 128, factor: float = 1.0, top_k: int = 1) -> int:
    """Rows of one (source, expert) cell: tokens · K · factor / E, rounded up to whole tiles."""
    rows = int(np.ceil(tokens * top_k * factor / experts))
    return -(-rows // tile_rows) * tile_rows


def heap_bytes(cell: int, experts: int, width: int, element_bytes: int) -> int:
    """4 · C · E · D elements, on each device. The paper's table has fp32 and top_k 1 (appendix)."""
    return HEAP_COPIES * cell * experts * width * element_bytes


def kept_rows(rows_E: Sequence[int] | NDArray[np.integer], capacity: int) -> int:
    """Rows that find a slot."""
    return int(np.minimum(rows_E, capacity).sum())
