"""The orthogonal factor of many matrices at once, by matrix products only."""

from __future__ import annotations

import torch
from torch import Tensor

# Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon): steepest at zero, so that five steps bring singular
# values from 0.01 to about 1; they end between 0.7 and 1.2 rather than at 1, which is as good for training.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(x_NRC: Tensor, *, steps: int = 5) -> Tensor:
    """U Vᵀ, nearly, for every matrix U S Vᵀ of a batch [N, R, C] with R ≤ C, in its dtype.

    The quintic Newton-Schulz iteration X ← aX + (bA + cA²)X with A = XXᵀ. A matrix of zeros stays zero.
    """
    a, b, c = COEFFICIENTS
    wide = torch.promote_types(x_NRC.dtype, torch.float32)
    norm_N11 = torch.linalg.vector_norm(x_NRC, dim=(1, 2), keepdim=True, dtype=wide)
    x_NRC = x_NRC / norm_N11.clamp_(min=1e-20).to(x_NRC.dtype)
    other_NRC = torch.empty_like(x_NRC)
    for _ in range(steps):
        gram_NRR = x_NRC @ x_NRC.mT
        gram_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        gram_NRR.diagonal(dim1=1, dim2=2).add_(a)  # aX + (bA + cA²)X as one product
        x_NRC, other_NRC = torch.bmm(gram_NRR, x_NRC, out=other_NRC), x_NRC
    return x_NRC
