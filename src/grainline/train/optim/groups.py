"""Which optimiser a parameter gets, by its name and shape alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Rows of these tables are chosen one at a time, so a step that treats them as one matrix would move rows that were not
# used (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982, section 2.2).
TABLES = (
    "embedding.weight",
    "head.weight",
    "router.weight_ED",
    "router.residual_EE",
    "costless.weight_J2D",
    "costless.vector_JD",
)
# A gain for each position that a channel sees: rows that no product mixes.
GAINS = ("depthwise_CK",)


@dataclass(frozen=True)
class Groups:
    """Names of parameters, in the order given: `matrices` for Muon, `tables` and `vectors` for AdamW.

    `vectors` (gains, biases, kernels of single channels) have no weight decay: pulling a gain towards zero is not a
    prior anybody holds.
    """

    matrices: tuple[str, ...]
    tables: tuple[str, ...]
    vectors: tuple[str, ...]


def sort_parameters(shapes: Iterable[tuple[str, tuple[int, ...]]], kind: str) -> Groups:
    """Sort ``(name, shape)`` pairs. With `kind` "adamw" there are no matrices: whatever has two dims is a table."""
    matrices, tables, vectors = [], [], []
    for name, shape in shapes:
        if len(shape) < 2 or name.endswith(GAINS):
            vectors.append(name)
        elif kind == "muon" and not name.endswith(TABLES):
            matrices.append(name)
        else:
            tables.append(name)
    return Groups(tuple(matrices), tuple(tables), tuple(vectors))
