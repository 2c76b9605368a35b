"""One decoder block: attention, then a dense or sparse FFN, each on a normalised copy added back to the stream."""

from __future__ import annotations

from torch import Tensor, nn

from grainline.documents import ModelConfig
from grainline.models.attention import Cache, Mask, RopeTable, build_attention
from grainline.models.layers import RMSNorm, SwigluFfn
from grainline.models.moe import MoeLayer, RouterReport


class Block(nn.Module):
    """Block number `layer` of a model; pre-norm."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = build_attention(config)
        self.ffn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.ffn: nn.Module = (
            MoeLayer(config) if config.is_sparse(layer) else SwigluFfn(config.hidden_size, config.ffn_hidden)
        )

    def forward(
        self, x_BSD: Tensor, rope: RopeTable, mask: Mask, cache: Cache | None = None, report: bool = False
    ) -> tuple[Tensor, RouterReport | None]:
        """[B, S, D] → [B, S, D], and the router's report if the block is sparse and it was asked for."""
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), rope, mask, cache)
        h_BSD = self.ffn_norm(x_BSD)
        if isinstance(self.ffn, MoeLayer):
            out_BSD, router_report = self.ffn(h_BSD, report)
            return x_BSD + out_BSD, router_report
        return x_BSD + self.ffn(h_BSD), None
