"""Cells: the smallest pieces of a model that a stage can hold, in the order in which data pass through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grainline.documents import ModelConfig

CellKind = Literal["embedding", "dense", "moe", "mtp", "mtp_head", "head"]


@dataclass(frozen=True)
class Cell:
    """One piece: the embedding, a block, MTP's transformer, MTP's logits and loss, the output layer and loss.

    The cross-entropy goes with its head: logits are never whole (arXiv 2510.22115, section 5, has head and loss as one
    too). The trunk's final norm belongs to the first cell after the blocks.
    """

    kind: CellKind
    layer: int = -1  # of a block

    @property
    def name(self) -> str:
        """Unique in a model, e.g. "block.3"."""
        return f"block.{self.layer}" if self.kind in ("dense", "moe") else self.kind


def cells_of(config: ModelConfig) -> tuple[Cell, ...]:
    """Embedding, blocks, MTP where the model has it (its transformer, then its logits), head."""
    blocks = [Cell("moe" if config.is_sparse(layer) else "dense", layer) for layer in range(config.layers)]
    mtp = [Cell("mtp"), Cell("mtp_head")] if config.mtp_depth else []
    return (Cell("embedding"), *blocks, *mtp, Cell("head"))


def stages_of(cells: tuple[Cell, ...], cut: tuple[int, ...]) -> tuple[tuple[Cell, ...], ...]:
    """Contiguous cells of each stage; `cut` says how many, none included. ValueError if they don't add up."""
    if sum(cut) != len(cells) or any(n < 0 for n in cut):
        raise ValueError(f"a cut of {sum(cut)} cells ({list(cut)}) for a model of {len(cells)}")
    ends = [sum(cut[: i + 1]) for i in range(len(cut))]
    return tuple(cells[end - n : end] for end, n in zip(ends, cut, strict=True))
