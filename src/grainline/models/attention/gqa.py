"""Grouped-query attention (Ainslie et al. 2023), with RMSNorm on q and k and partial RoPE where the config says so."""

from __future__ import annotations

from torch import Tensor, nn

from grainline import kernels
from grainline.documents import ModelConfig
from grainline.models.attention.cache import Cache
from grainline.models.attention.mask import Mask
from grainline.models.attention.rope import RopeTable, apply_rope
from grainline.models.layers import Linear, RMSNorm


class GroupedQueryAttention(nn.Module):
    """H heads of queries share `key_value_heads` heads of keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        a, size = config.attention, config.hidden_size
        self.head_dim, self.interleaved = a.head_dim, a.rope.interleaved
        self.scale = a.head_dim**-0.5
        self.q = Linear(size, a.heads * a.head_dim, bias=a.bias)
        self.k = Linear(size, a.key_value_heads * a.head_dim, bias=a.bias)
        self.v = Linear(size, a.key_value_heads * a.head_dim, bias=a.bias)
        self.o = Linear(a.heads * a.head_dim, size, bias=a.output_bias)
        self.q_norm = RMSNorm(a.head_dim, config.norm_eps) if a.qk_norm else None
        self.k_norm = RMSNorm(a.head_dim, config.norm_eps) if a.qk_norm else None

    def forward(self, x_BSD: Tensor, rope: RopeTable, mask: Mask, cache: Cache | None = None) -> Tensor:
        """[B, S, D] → [B, S, D]; a cache is read and grown in place."""
        q_BSHh, k_BSGh, v_BSGh = (f(x_BSD).unflatten(-1, (-1, self.head_dim)) for f in (self.q, self.k, self.v))
        if self.q_norm is not None and self.k_norm is not None:
            q_BSHh, k_BSGh = self.q_norm(q_BSHh), self.k_norm(k_BSGh)
        q_BSHh, k_BSGh = (apply_rope(x, rope, self.interleaved) for x in (q_BSHh, k_BSGh))
        if cache is not None:
            k_BSGh, v_BSGh = cache.append(k_BSGh, v_BSGh)
        out_BSHh = kernels.attention(q_BSHh, k_BSGh, v_BSGh, mask.allowed, mask.causal, self.scale)
        return self.o(out_BSHh.flatten(-2))
