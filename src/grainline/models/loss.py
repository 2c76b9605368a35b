"""The training loss as sums, so that micro-batches, ranks and stages of any size add up to the same step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grainline.documents.recipe import Loss
from grainline.models.cells import Batch, Carry, Tally, cell_names, run_cell
from grainline.models.model import Model


@dataclass(frozen=True)
class LossSums:
    """Sums over a micro-batch, in nats; `objective` turns them into what is minimised.

    Those of a model's stages add up to those of the model: what a stage doesn't have is 0, also in counts_LE.
    """

    cross_entropy: Tensor
    mtp: Tensor
    z: Tensor
    balance: Tensor
    tokens: int
    mtp_tokens: int
    counts_LE: Tensor
    rows_LE: Tensor  # see `moe.RouterReport`
    entropy_L: Tensor  # of the routers' choices; see `moe.RouterReport`

    def objective(self, loss: Loss, batch_tokens: int) -> Tensor:
        """This micro-batch's part of the step's loss, given the tokens of the whole step over all ranks.

        Cross-entropy + mtp_weight · MTP's, both per token of the batch, + router terms, per token and sparse layer.
        """
        layers = max(1, self.counts_LE.shape[0])
        routers = (loss.z_loss * self.z + loss.balance_loss * self.balance) / layers
        mtp = loss.mtp_weight * loss.mtp_every * self.mtp
        return (self.cross_entropy + mtp + routers) / batch_tokens

    def detached(self) -> LossSums:
        """The same values, without the graph behind them."""
        z, balance = self.z.detach(), self.balance.detach()
        return replace(self, cross_entropy=self.cross_entropy.detach(), mtp=self.mtp.detach(), z=z, balance=balance)


def loss_sums(
    model: Model,
    ids_BS1: Tensor,
    *,
    document_attention: bool = False,
    bos_token_id: int | None = None,
    mtp_every: int = 1,
) -> LossSums:
    """Losses of predicting ids_BS1[:, 1:] from ids_BS1[:, :-1].

    ids_BS1: int64 [B, S + 1]. A document starts at each `bos_token_id`; with `document_attention` tokens see only their
    own document. MTP learns from one sequence in `mtp_every`, and predicts nothing across the start of a document: what
    follows it can't be known.
    """
    batch = Batch.of(
        model.config,
        ids_BS1,
        document_attention=document_attention,
        bos_token_id=bos_token_id,
        mtp_every=mtp_every,
    )
    return run_cells(model, cell_names(model.config), batch, Carry())[1]


def run_cells(model: Model, names: Iterable[str], batch: Batch, carry: Carry) -> tuple[Carry, LossSums]:
    """Compute cells one after another; returns what they leave to the next one, and their share of the loss."""
    tally = Tally()
    for name in names:
        carry = run_cell(name, model, batch, carry, tally)
    return carry, _sums(model, tally, batch.ids_BS.device)


def _sums(model: Model, tally: Tally, device: torch.device) -> LossSums:
    zero = torch.zeros((), device=device)
    layers, moe = model.config.sparse_layers, model.config.moe
    counts_LE = torch.zeros(len(layers), moe.choices if layers and moe else 0, dtype=torch.long, device=device)
    rows_LE, entropy_L = torch.zeros_like(counts_LE), torch.zeros(len(layers), device=device)
    for row, layer in enumerate(layers):
        if layer in tally.reports:
            report = tally.reports[layer]
            counts_LE[row], rows_LE[row], entropy_L[row] = report.counts_E, report.rows_E, report.entropy
    return LossSums(
        zero if tally.cross_entropy is None else tally.cross_entropy,
        zero if tally.mtp is None else tally.mtp,
        sum((r.z for r in tally.reports.values()), zero),
        sum((r.balance for r in tally.reports.values()), zero),
        tally.tokens,
        tally.mtp_tokens,
        counts_LE,
        rows_LE,
        entropy_L,
    )
