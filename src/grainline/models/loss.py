"""The training loss as sums, so that micro-batches and ranks of any size add up to the same step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grainline import kernels
from grainline.documents.recipe import Loss
from grainline.models.model import Model, Trunk
from grainline.models.moe import RouterReport


@dataclass(frozen=True)
class LossSums:
    """Sums over a micro-batch, in nats; `objective` turns them into what is minimised."""

    cross_entropy: Tensor
    mtp: Tensor
    z: Tensor
    balance: Tensor
    tokens: int
    mtp_tokens: int
    counts_LE: Tensor

    def objective(self, loss: Loss, batch_tokens: int) -> Tensor:
        """This micro-batch's part of the step's loss, given the tokens of the whole step over all ranks.

        Cross-entropy + mtp_weight · MTP's, both per token of the batch, + router terms, per token and sparse layer.
        """
        layers = max(1, self.counts_LE.shape[0])
        routers = (loss.z_loss * self.z + loss.balance_loss * self.balance) / layers
        mtp = loss.mtp_weight * loss.mtp_every * self.mtp
        return (self.cross_entropy + mtp + routers) / batch_tokens


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
    ids_BS, label_BS = ids_BS1[:, :-1], ids_BS1[:, 1:]
    starts_BS = None if bos_token_id is None else ids_BS == bos_token_id
    document_BS = starts_BS.cumsum(1) if document_attention and starts_BS is not None else None
    trunk = model.trunk(ids_BS, document_BS=document_BS, report=True)
    cross_entropy = kernels.linear_cross_entropy(trunk.hidden_BSD.flatten(0, 1), model.head_VD, label_BS.flatten())
    reports, mtp, mtp_tokens = list(trunk.reports), torch.zeros_like(cross_entropy), 0
    if model.mtp is not None:
        row_b, label_bS = _mtp_labels(ids_BS1, bos_token_id, mtp_every)
        chosen, document_bS = Trunk(trunk.hidden_BSD[row_b]), None if document_BS is None else document_BS[row_b]
        further = model.predict_further(chosen, label_BS[row_b], document_bS, report=True)
        mtp_tokens = int((label_bS != -100).sum())
        # Its router stands for all sequences, as its loss does; a row that only keeps ranks in step counts nothing.
        stands_for = mtp_every if bool((label_bS != -100).any()) else 0
        for r in further.reports:
            reports.append(RouterReport(r.z * stands_for, r.balance * stands_for, r.counts_E * min(stands_for, 1)))
        mtp = kernels.linear_cross_entropy(further.hidden_BSD.flatten(0, 1), model.head_VD, label_bS.flatten())
    zero = torch.zeros_like(cross_entropy)
    return LossSums(
        cross_entropy,
        mtp,
        sum((r.z for r in reports), zero),
        sum((r.balance for r in reports), zero),
        label_BS.numel(),
        mtp_tokens,
        torch.stack([r.counts_E for r in reports]) if reports else torch.zeros(0, 0, dtype=torch.long),
    )


def _mtp_labels(ids_BS1: Tensor, bos_token_id: int | None, every: int) -> tuple[Tensor, Tensor]:
    """Rows that MTP learns from [b], and what it predicts there [b, S]; −100 where it predicts nothing.

    A sequence is chosen by its content, so that the choice doesn't depend on ranks and micro-batches. Where none is,
    one goes through without labels: sharded parameters are gathered by all ranks or by none.
    """
    chosen_B = ids_BS1.sum(1) % every == 0
    row_b = chosen_B.nonzero().squeeze(1) if bool(chosen_B.any()) else torch.zeros_like(ids_BS1[:1, 0])
    further_bS = torch.full_like(ids_BS1[row_b, 1:], -100)
    further_bS[:, :-1] = ids_BS1[row_b, 2:]
    if bos_token_id is not None:
        further_bS.masked_fill_(ids_BS1[row_b, 1:] == bos_token_id, -100)
    return row_b, further_bS.masked_fill_(~chosen_B[row_b].unsqueeze(1), -100)
