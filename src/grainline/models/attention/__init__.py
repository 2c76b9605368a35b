"""The `Attention` seam: hidden states, positions and an opaque per-layer cache → hidden states."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from grainline.documents import ModelConfig
from grainline.models.attention.cache import Cache
from grainline.models.attention.cca import CompressedConvolutionalAttention
from grainline.models.attention.gqa import GroupedQueryAttention
from grainline.models.attention.mask import Mask
from grainline.models.attention.mla import MultiHeadLatentAttention
from grainline.models.attention.rope import RopeTable


class Attention(Protocol):
    """One layer's attention, a torch module made from a ModelConfig."""

    def __call__(self, x_BSD: Tensor, rope: RopeTable, mask: Mask, cache: Cache | None = None) -> Tensor:
        """[B, S, D] → [B, S, D]; a cache is read and grown in place."""
        ...


ATTENTIONS: dict[str, type[nn.Module]] = {
    "gqa": GroupedQueryAttention,
    "mla": MultiHeadLatentAttention,
    "cca": CompressedConvolutionalAttention,
}
"""`attention.kind` of a ModelConfig → the module."""


def build_attention(config: ModelConfig) -> nn.Module:
    """The attention that the config names."""
    return ATTENTIONS[config.attention.kind](config)
