"""One decoder block: attention, then a dense or sparse FFN, each on a normalised copy added back to the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grainline.documents import ModelConfig
from grainline.models.attention import Cache, Mask, RopeTable, build_attention
from grainline.models.layers import RMSNorm, SwigluFfn
from grainline.models.moe import AT_REST, MoeLayer, Moment, RouterReport
from grainline.models.moe.experts import SwigluExperts
from grainline.models.residual import ResidualScaling


@dataclass(frozen=True)
class Around:
    """What a block is given beside the stream."""

    rope: RopeTable
    mask: Mask
    cache: Cache | None = None
    report: bool = False  # whether its router is to report
    moment: Moment = AT_REST
    bank: SwigluExperts | None = None  # experts that it shares with other blocks

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in, whatever the stream is kept in: the rotations are made in it."""
        return self.rope.cos.dtype


class BlockOutput(NamedTuple):
    """The stream [B, S, D], what the next router needs of this one [T, C], and the router's report if asked for."""

    x_BSD: Tensor
    carry_TC: Tensor | None = None
    report: RouterReport | None = None


class Block(nn.Module):
    """Block number `layer` of a model; pre-norm."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = build_attention(config)
        self.ffn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.ffn: nn.Module = (
            MoeLayer(config, layer) if config.is_sparse(layer) else SwigluFfn(config.hidden_size, config.ffn_hidden)
        )
        scaled = config.residual_scaling
        self.attention_scaling = ResidualScaling(config.hidden_size) if scaled else None
        self.ffn_scaling = ResidualScaling(config.hidden_size) if scaled else None

    def forward(self, x_BSD: Tensor, around: Around, carry_TC: Tensor | None = None) -> BlockOutput:
        """[B, S, D] → [B, S, D]; a dense block hands the carry on as it is."""
        h_BSD = self.attention_norm(x_BSD.to(around.dtype))
        x_BSD = _add(x_BSD, self.attention(h_BSD, around.rope, around.mask, around.cache), self.attention_scaling)
        h_BSD = self.ffn_norm(x_BSD.to(around.dtype))
        if not isinstance(self.ffn, MoeLayer):
            return BlockOutput(_add(x_BSD, self.ffn(h_BSD), self.ffn_scaling), carry_TC)
        out_BSD, carry_TC, report = self.ffn(h_BSD, around.report, carry_TC, around.moment, around.bank)
        return BlockOutput(_add(x_BSD, out_BSD, self.ffn_scaling), carry_TC, report)


def _add(x_BSD: Tensor, added_BSD: Tensor, scaling: ResidualScaling | None) -> Tensor:
    return x_BSD + added_BSD if scaling is None else scaling(x_BSD, added_BSD)
