"""Load balance without an auxiliary loss: after each step the selection bias moves towards the experts with too little.

Ling 2.0 (arXiv 2510.22115, section 2.2): g = sign(mean(c) − c); b ← b + u·(g − mean(g)), so the bias keeps a mean of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grainline.models.moe.layer import MoeLayer


@torch.no_grad()
def step_bias(model: nn.Module, counts_LE: Tensor, rate: float) -> None:
    """Move the bias of every balanced router by one step.

    counts_LE: tokens per expert of each sparse layer (row order of `LossSums.counts_LE`), summed over all ranks and
    micro-batches of the step.
    """
    routers = [m.router for m in model.modules() if isinstance(m, MoeLayer)]
    if len(routers) != counts_LE.shape[0]:
        raise ValueError(f"counts of {counts_LE.shape[0]} layers for a model with {len(routers)} routers")
    for router, counts_E in zip(routers, counts_LE, strict=True):
        if router.bias_E is not None:
            counts_E = counts_E.to(router.bias_E)
            sign_E = (counts_E.mean() - counts_E).sign()
            router.bias_E += rate * (sign_E - sign_E.mean())


def imbalance(counts_LE: Tensor) -> Tensor:
    """Max over mean load of each layer, [L]: 1 when even, E when one expert gets everything."""
    counts = counts_LE.double()
    return counts.amax(-1) / counts.mean(-1).clamp_min(1e-12)
