"""The small layers that every block is made of. Each computes in the dtype of what it is given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grainline import kernels
from grainline.kernels import WeightQueue


class Linear(nn.Linear):
    """y = x · Wᵀ + b in x's dtype: float32 parameters under bfloat16 activations need no autocast."""

    queue: WeightQueue | None = None  # where the weight's gradient may be deferred to; see `Model.defer_weights`

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] → […, out]."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.queue is None:
            return F.linear(x, self.weight.to(x.dtype), bias)
        out = kernels.linear(x, self.weight, self.queue)
        return out if bias is None else out + bias


class RMSNorm(nn.Module):
    """x / rms(x) · gain over the last dimension (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[…, size] → […, size]."""
        return kernels.rms_norm(x, self.weight.to(x.dtype), self.eps)


class SwigluFfn(nn.Module):
    """The dense FFN: w2 · (silu(w1 · x) ⊙ (w3 · x)). w13 stacks gate and up, two matrices for one product."""

    queue: WeightQueue | None = None

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.w13_2FD = nn.Parameter(torch.empty(2, hidden, size))
        self.w2_DF = nn.Parameter(torch.empty(size, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """[…, D] → […, D]."""
        return kernels.swiglu(x, self.w13_2FD, self.w2_DF, self.queue)
