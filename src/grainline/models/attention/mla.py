"""Multi-head latent attention (DeepSeek-V2, section 2.1): keys and values are made from one small latent per token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grainline import kernels
from grainline.documents import ModelConfig
from grainline.models.attention.cache import Cache
from grainline.models.attention.mask import Mask
from grainline.models.attention.rope import RopeTable, apply_rope, softmax_scale
from grainline.models.layers import Linear, RMSNorm

_LATENT_EPS = 1e-6  # DeepSeek's own code leaves it so whatever the model's norm_eps is


class MultiHeadLatentAttention(nn.Module):
    """q and k have a part that rotates (one k for all heads) and a part that doesn't; the cache holds the latent."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        a, size = config.attention, config.hidden_size
        assert a.kv_rank and a.rope_dim and a.value_dim  # ModelConfig checks them
        self.heads, self.still, self.turning, self.value_dim = a.heads, a.head_dim, a.rope_dim, a.value_dim
        self.kv_rank, self.interleaved = a.kv_rank, a.rope.interleaved
        self.scale = softmax_scale(a.rope, a.head_dim + a.rope_dim)
        q_size = a.heads * (a.head_dim + a.rope_dim)
        if a.q_rank:
            self.q_down = Linear(size, a.q_rank, bias=a.bias)
            self.q_down_norm = RMSNorm(a.q_rank, _LATENT_EPS)
            self.q_up = Linear(a.q_rank, q_size, bias=False)
        else:
            self.q = Linear(size, q_size, bias=False)
        self.factored = a.q_rank is not None
        self.kv_down = Linear(size, a.kv_rank + a.rope_dim, bias=a.bias)
        self.kv_down_norm = RMSNorm(a.kv_rank, _LATENT_EPS)
        self.kv_up = Linear(a.kv_rank, a.heads * (a.head_dim + a.value_dim), bias=False)
        self.o = Linear(a.heads * a.value_dim, size, bias=a.output_bias)

    def forward(self, x_BSD: Tensor, rope: RopeTable, mask: Mask, cache: Cache | None = None) -> Tensor:
        """[B, S, D] → [B, S, D]; a cache is read and grown in place."""
        q_BSX = self.q_up(self.q_down_norm(self.q_down(x_BSD))) if self.factored else self.q(x_BSD)
        q_still, q_turning = q_BSX.unflatten(-1, (self.heads, -1)).split((self.still, self.turning), dim=-1)
        latent_BSR, k_turning = self.kv_down(x_BSD).split((self.kv_rank, self.turning), dim=-1)
        latent_BSR = self.kv_down_norm(latent_BSR)
        q_turning = apply_rope(q_turning, rope, self.interleaved)
        k_turning = apply_rope(k_turning.unsqueeze(2), rope, self.interleaved)
        if cache is not None:
            latent_BSR, k_turning = cache.append(latent_BSR, k_turning)
        kv = self.kv_up(latent_BSR).unflatten(-1, (self.heads, -1))
        k_still, v = kv.split((self.still, self.value_dim), dim=-1)
        q = torch.cat((q_still, q_turning), dim=-1)
        k = torch.cat((k_still, k_turning.expand(-1, -1, self.heads, -1)), dim=-1)
        out_BSHv = kernels.attention(q, k, v, mask.allowed, mask.causal, self.scale)
        return self.o(out_BSHv.flatten(-2))
