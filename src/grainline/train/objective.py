"""The module whose forward pass is a step's loss: what FSDP takes as its root, and what a step runs backward from."""

from __future__ import annotations

from torch import Tensor, nn

from grainline.documents.recipe import Loss
from grainline.models.loss import LossSums, loss_sums
from grainline.models.model import Model


class Objective(nn.Module):
    """Ids → this micro-batch's part of the loss, and the sums it was made from."""

    def __init__(
        self, model: Model, loss: Loss, *, batch_tokens: int, document_attention: bool, bos_token_id: int | None
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.batch_tokens = batch_tokens
        self.document_attention = document_attention
        self.bos_token_id = bos_token_id

    def forward(self, ids_BS1: Tensor) -> tuple[Tensor, LossSums]:
        """ids_BS1: int64 [B, S + 1]. The parts of all micro-batches and ranks add up to the step's loss."""
        sums = loss_sums(
            self.model,
            ids_BS1,
            document_attention=self.document_attention,
            bos_token_id=self.bos_token_id,
            mtp_every=self.loss.mtp_every,
        )
        return sums.objective(self.loss, self.batch_tokens), sums
