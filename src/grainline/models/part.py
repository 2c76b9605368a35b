"""A part of a model: the modules that some of its cells need, under the names that they have in the whole."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from grainline.documents import ModelConfig
from grainline.models.model import Model


def modules_of(config: ModelConfig, cell: str) -> tuple[str, ...]:
    """Paths of the modules whose parameters a cell uses.

    MTP embeds tokens too, and both heads share their weight, which is the embedding's where they are tied. The trunk's
    last norm belongs to what comes after the blocks. "vocabulary" is no cell: it is a rank's rows of both tables.
    """
    kind, _, layer = cell.partition(".")
    head = "embedding" if config.tie_embeddings else "head"
    return {
        "embedding": ("embedding", "embedding_scaling") if config.residual_scaling else ("embedding",),
        "block": (f"blocks.{layer}", *_bank(config, int(layer or -1))),
        "norm": ("norm",),
        "mtp": ("norm", "mtp", "embedding", *_bank(config, config.layers)),
        "mtp_head": (head,),
        "head": (head,) if config.mtp_depth else ("norm", head),
        "vocabulary": ("embedding", head),
    }[kind]


def _bank(config: ModelConfig, layer: int) -> tuple[str, ...]:
    shares = config.banks and config.is_sparse(layer) and layer >= 0
    return (f"banks.{config.expert_layers(layer)[0]}",) if shares else ()


def keep_cells(model: Model, cells: Collection[str]) -> None:
    """Drop, in place, every module that none of these cells uses."""
    kept = {path for cell in cells for path in modules_of(model.config, cell)}
    for name in ("embedding", "embedding_scaling", "norm", "head", "mtp"):
        if name not in kept:
            setattr(model, name, None)
    for layer in range(model.config.layers):
        if f"blocks.{layer}" not in kept:
            setattr(model.blocks, str(layer), None)
    for first in model.config.banks:
        if f"banks.{first}" not in kept:
            setattr(model.banks, str(first), None)


def keep_rows(model: Model, rows: range) -> None:
    """Cut, in place, the embedding and the output layer to some of their rows, for passes that know of it."""
    for table in (model.embedding, model.head):
        if table is not None:
            table.weight = nn.Parameter(table.weight.detach()[rows.start : rows.stop].clone())
