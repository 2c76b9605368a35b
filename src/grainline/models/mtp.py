"""Multi-token prediction, depth 1: one more block that predicts the token after the next (DeepSeek-V3, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grainline.documents import ModelConfig
from grainline.models.blocks import Around, Block, BlockOutput
from grainline.models.layers import Linear, RMSNorm


class MultiTokenPrediction(nn.Module):
    """h' = block(W · [norm(embedding of the next token), norm(trunk)]), normalised; the output head is the trunk's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.norm_eps
        self.embedding_norm = RMSNorm(size, eps)
        self.hidden_norm = RMSNorm(size, eps)
        self.projection = Linear(2 * size, size, bias=False)
        self.block = Block(config, config.layers)
        self.norm = RMSNorm(size, eps)

    def forward(
        self, hidden_BSD: Tensor, next_BSD: Tensor, around: Around, carry_TC: Tensor | None = None
    ) -> BlockOutput:
        """Trunk output (after its final norm) and the embedding of each position's next token → [B, S, D]."""
        both_BSX = torch.cat((self.embedding_norm(next_BSD), self.hidden_norm(hidden_BSD)), dim=-1)
        out = self.block(self.projection(both_BSX), around, carry_TC)
        return BlockOutput(self.norm(out.x_BSD), out.carry_TC, out.report)
