"""The training loss as sums, so that micro-batches and ranks of any size add up to the same step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grainline import kernels
from grainline.documents.recipe import Loss
from grainline.models.model import Model


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
        return (self.cross_entropy + loss.mtp_weight * self.mtp + routers) / batch_tokens


def loss_sums(
    model: Model, ids_BS1: Tensor, *, document_attention: bool = False, bos_token_id: int | None = None
) -> LossSums:
    """Losses of predicting ids_BS1[:, 1:] from ids_BS1[:, :-1].

    ids_BS1: int64 [B, S + 1]. A document starts at each `bos_token_id`; with `document_attention` tokens see only their
    own document. MTP predicts nothing across the start of a document: what follows it can't be known.
    """
    ids_BS, label_BS = ids_BS1[:, :-1], ids_BS1[:, 1:]
    starts_BS = None if bos_token_id is None else ids_BS == bos_token_id
    document_BS = starts_BS.cumsum(1) if document_attention and starts_BS is not None else None
    trunk = model.trunk(ids_BS, document_BS=document_BS, report=True)
    cross_entropy = kernels.linear_cross_entropy(trunk.hidden_BSD.flatten(0, 1), model.head_VD, label_BS.flatten())
    reports, mtp, mtp_tokens = list(trunk.reports), torch.zeros_like(cross_entropy), 0
    if model.mtp is not None:
        further = model.predict_further(trunk, label_BS, document_BS)
        reports += further.reports
        further_BS = torch.full_like(label_BS, -100)
        further_BS[:, :-1] = ids_BS1[:, 2:]
        if bos_token_id is not None:
            further_BS.masked_fill_(label_BS == bos_token_id, -100)
        mtp_tokens = int((further_BS != -100).sum())
        mtp = kernels.linear_cross_entropy(further.hidden_BSD.flatten(0, 1), model.head_VD, further_BS.flatten())
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
