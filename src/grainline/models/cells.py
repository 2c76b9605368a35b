"""A model's cells, each a function of what the cell before left: the whole model runs all of them, a stage some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grainline import kernels
from grainline.documents import ModelConfig
from grainline.models.attention import Mask, RopeTable
from grainline.models.blocks import Around
from grainline.models.model import Model, Trunk
from grainline.models.moe import RouterReport


@dataclass(frozen=True)
class Further:
    """What MTP learns from: rows of the batch [b], and its labels there [b, S]; −100 where it predicts nothing."""

    row_b: Tensor
    label_bS: Tensor
    tokens: int
    stands_for: int  # sequences for each of its own: 0 where a row only keeps ranks in step


@dataclass
class Batch:
    """What every cell may know of a micro-batch. It follows from the ids alone, so stages needn't send it."""

    ids_BS: Tensor
    label_BS: Tensor
    document_BS: Tensor | None
    further: Further | None
    next_bSD: Tensor | None = None  # embeddings for MTP, of the labels of its rows, where they were looked up elsewhere
    _positions: tuple[RopeTable, Mask] | None = None

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        ids_BS1: Tensor,
        *,
        document_attention: bool = False,
        bos_token_id: int | None = None,
        mtp_every: int = 1,
    ) -> Batch:
        """ids_BS1: int64 [B, S + 1]; see `loss.loss_sums` for the rest."""
        ids_BS, label_BS = ids_BS1[:, :-1], ids_BS1[:, 1:]
        starts_BS = None if bos_token_id is None else ids_BS == bos_token_id
        document_BS = starts_BS.cumsum(1) if document_attention and starts_BS is not None else None
        further = _further(ids_BS1, bos_token_id, mtp_every) if config.mtp_depth else None
        return cls(ids_BS, label_BS, document_BS, further)

    def positions(self, model: Model) -> tuple[RopeTable, Mask]:
        """Rotations and mask, made once for all blocks."""
        if self._positions is None:
            self._positions = model.positions(self.ids_BS.shape[1], 0, self.document_BS)
        return self._positions


@dataclass(frozen=True)
class Carry:
    """What goes from cell to cell: the stream [B, S, D], normalised after the blocks; after MTP also its own [b, S, D];
    between sparse blocks what a router leaves to the next one [T, C], where the model's do.

    Before the embedding and after the head there is nothing.
    """

    hidden_BSD: Tensor | None = None
    further_bSD: Tensor | None = None
    router_TC: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those that there are, in order."""
        return tuple(t for t in (self.hidden_BSD, self.further_bSD, self.router_TC) if t is not None)


@dataclass
class Tally:
    """What cells add to the loss, as sums over the micro-batch, and how their experts were loaded."""

    cross_entropy: Tensor | None = None
    mtp: Tensor | None = None
    tokens: int = 0
    mtp_tokens: int = 0
    reports: dict[int, RouterReport] = field(default_factory=dict)  # by layer


def cell_names(config: ModelConfig) -> Iterator[str]:
    """All cells in order, by the names that `schedule.cells_of` gives them."""
    yield "embedding"
    yield from (f"block.{layer}" for layer in range(config.layers))
    if config.mtp_depth:
        yield from ("mtp", "mtp_head")
    yield "head"


def run_cell(name: str, model: Model, batch: Batch, carry: Carry, tally: Tally) -> Carry:
    """Compute one cell, by its name."""
    kind, _, layer = name.partition(".")
    return CELLS[kind](model, batch, carry, tally, int(layer or -1))


def _embedding(model: Model, batch: Batch, carry: Carry, tally: Tally, layer: int) -> Carry:
    return Carry(model.embed(batch.ids_BS))


def _block(model: Model, batch: Batch, carry: Carry, tally: Tally, layer: int) -> Carry:
    assert carry.hidden_BSD is not None
    rope, mask = batch.positions(model)
    out = model.run_block(layer, carry.hidden_BSD, Around(rope, mask, report=True), carry.router_TC)
    if out.report is not None:
        tally.reports[layer] = out.report
    return Carry(out.x_BSD, carry.further_bSD, out.carry_TC)


def _norm(model: Model, batch: Batch, carry: Carry, tally: Tally, layer: int) -> Carry:
    """The trunk's last norm, by itself where the head isn't a cell but a pass of its own."""
    assert carry.hidden_BSD is not None
    return Carry(model.normalise(carry.hidden_BSD))


def _mtp(model: Model, batch: Batch, carry: Carry, tally: Tally, layer: int) -> Carry:
    assert carry.hidden_BSD is not None
    assert batch.further is not None
    hidden_BSD, row_b = model.normalise(carry.hidden_BSD), batch.further.row_b
    document_bS = None if batch.document_BS is None else batch.document_BS[row_b]
    chosen, label_bS = Trunk(hidden_BSD[row_b]), batch.label_BS[row_b]
    out = model.predict_further(chosen, label_bS, document_bS, report=True, next_BSD=batch.next_bSD)
    times = batch.further.stands_for  # its router stands for all sequences, as its loss does
    for r in out.reports:
        counts_E, rows_E, entropy = (of * min(times, 1) for of in (r.counts_E, r.rows_E, r.entropy))  # as seen
        tally.reports[model.config.layers] = RouterReport(r.z * times, r.balance * times, counts_E, rows_E, entropy)
    return Carry(hidden_BSD, out.hidden_BSD)


def _mtp_head(model: Model, batch: Batch, carry: Carry, tally: Tally, layer: int) -> Carry:
    assert carry.further_bSD is not None
    assert batch.further is not None
    tally.mtp = _cross_entropy(model, carry.further_bSD, batch.further.label_bS)
    tally.mtp_tokens = batch.further.tokens
    return Carry(carry.hidden_BSD)


def _head(model: Model, batch: Batch, carry: Carry, tally: Tally, layer: int) -> Carry:
    assert carry.hidden_BSD is not None
    hidden_BSD = carry.hidden_BSD if model.config.mtp_depth else model.normalise(carry.hidden_BSD)
    tally.cross_entropy = _cross_entropy(model, hidden_BSD, batch.label_BS)
    tally.tokens = batch.label_BS.numel()
    return Carry()


def _cross_entropy(model: Model, hidden_BSD: Tensor, label_BS: Tensor) -> Tensor:
    return kernels.linear_cross_entropy(hidden_BSD.flatten(0, 1), model.head_VD, label_BS.flatten(), model.queue)


CELLS: dict[str, Callable[[Model, Batch, Carry, Tally, int], Carry]] = {
    "embedding": _embedding,
    "block": _block,
    "norm": _norm,
    "mtp": _mtp,
    "mtp_head": _mtp_head,
    "head": _head,
}
"""Kind of cell → how it is computed; the last argument is a block's layer."""


def _further(ids_BS1: Tensor, bos_token_id: int | None, every: int) -> Further:
    """A sequence is chosen by its content, so that the choice doesn't depend on ranks and micro-batches. Where none is,
    one goes through without labels: sharded parameters are gathered by all ranks or by none.
    """
    chosen_B = ids_BS1.sum(1) % every == 0
    row_b = chosen_B.nonzero().squeeze(1) if bool(chosen_B.any()) else torch.zeros_like(ids_BS1[:1, 0])
    label_bS = torch.full_like(ids_BS1[row_b, 1:], -100)
    label_bS[:, :-1] = ids_BS1[row_b, 2:]
    if bos_token_id is not None:
        label_bS.masked_fill_(ids_BS1[row_b, 1:] == bos_token_id, -100)
    label_bS.masked_fill_(~chosen_B[row_b].unsqueeze(1), -100)
    tokens = int((label_bS != -100).sum())
    return Further(row_b, label_bS, tokens, every if tokens else 0)
