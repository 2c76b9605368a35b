"""Load balance without an auxiliary loss: after each step the selection bias moves towards the experts with too little.

Ling 2.0 (arXiv 2510.22115, section 2.2): g = sign(mean(c) − c); b ← b + u·(g − mean(g)), so the bias keeps a mean of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grainline.models.moe.layer import MoeLayer
from grainline.models.moe.report import weights


@torch.no_grad()
def step_bias(model: nn.Module, counts_LE: Tensor, rate: float) -> None:
    """Move the bias of every balanced router by one step.

    counts_LE: tokens per expert of each sparse layer (row order of `LossSums.counts_LE`), summed over all ranks and
    micro-batches of the step; NaN is an expert that couldn't be chosen, whose bias stays.
    """
    routers = [m.router for m in model.modules() if isinstance(m, MoeLayer)]
    if len(routers) != counts_LE.shape[0]:
        raise ValueError(f"counts of {counts_LE.shape[0]} layers for a model with {len(routers)} routers")
    for router, counts_E in zip(routers, counts_LE, strict=True):
        if router.bias_E is not None:
            counts_E = counts_E.to(router.bias_E)
            weight_E = weights(router.moe, counts_E)
            counts_E = counts_E if weight_E is None else counts_E * weight_E  # even is where loads go as 1/η
            sign_E = (counts_E.nanmean() - counts_E).sign().nan_to_num()
            router.bias_E += rate * (sign_E - sign_E.mean())


def imbalance(counts_LE: Tensor) -> Tensor:
    """Max over mean load of each layer, [L]: 1 when even, E when one expert gets everything.

    Given the columns of experts with weights: those without cost no rank anything.
    """
    counts = counts_LE.double()
    return counts.amax(-1) / counts.mean(-1).clamp_min(1e-12)


def costless_share(counts_LE: Tensor, pool: int) -> Tensor:
    """Share of each layer's choices that fell on experts without weights, which follow the `pool` with, [L]."""
    counts = counts_LE.double()
    return counts[:, pool:].sum(-1) / counts.sum(-1).clamp_min(1e-12)
