"""Residual scaling (ZAYA1, arXiv 2511.17127): gains and biases on the stream and on what is added to it.

The stream is kept in float32, whatever is computed in, so that forty layers of small additions don't round away.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualScaling(nn.Module):
    """x ← (f + b₁) ⊙ s₁ + (x + b₂) ⊙ s₂: plain addition at the start, with s = 1 and b = 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.added_scale_D = nn.Parameter(torch.empty(size))
        self.added_bias_D = nn.Parameter(torch.empty(size))
        self.stream_scale_D = nn.Parameter(torch.empty(size))
        self.stream_bias_D = nn.Parameter(torch.empty(size))

    def forward(self, x_BSD: Tensor, added_BSD: Tensor) -> Tensor:
        """The stream [B, S, D] and what a layer adds, in its own dtype → the stream."""
        return _scaled(added_BSD, self.added_bias_D, self.added_scale_D) + _scaled(
            x_BSD, self.stream_bias_D, self.stream_scale_D
        )


class EmbeddingScaling(nn.Module):
    """x ← (x + b) ⊙ s, and from there on wide."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale_D = nn.Parameter(torch.empty(size))
        self.bias_D = nn.Parameter(torch.empty(size))

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Embeddings [B, S, D] → the stream."""
        return _scaled(x_BSD, self.bias_D, self.scale_D).to(wide(x_BSD.dtype))


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or what is wider."""
    return torch.promote_types(dtype, torch.float32)


def _scaled(x: Tensor, bias_D: Tensor, scale_D: Tensor) -> Tensor:
    return (x + bias_D.to(x.dtype)) * scale_D.to(x.dtype)
