"""Capacity: in training an expert takes at most so many times its even share of a micro-batch's choices.

Even is where the balance loss is least: loads go as 1/η, with η = τ for experts without weights (MoE++, arXiv
2410.07348, section 3.3). Printed there for T tokens; a token makes K choices, so T·K is what is shared out here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grainline.documents.moe import Moe
from grainline.models.moe.report import weights
from grainline.models.moe.seams import Routing


def limits(moe: Moe, choices: int, like: Tensor) -> Tensor:
    """Choices that each expert takes of so many, [E], rounded up: at least one."""
    assert moe.capacity is not None
    even_E = like.new_ones(moe.choices, dtype=torch.float64)
    weight_E = weights(moe, even_E)
    even_E = even_E if weight_E is None else 1 / weight_E
    share_E = moe.capacity * choices * even_E / even_E.sum()
    return (share_E - 1e-9).ceil().long()  # what binary fractions have beyond a whole number isn't rounded up


def within_capacity(moe: Moe, routing: Routing) -> Routing:
    """The choices that fit. Those of the lowest score are dropped, and of equal ones the later token's; a token that
    loses all of its experts passes by the residual stream alone.
    """
    expert_N, score_N = routing.expert_N, routing.score_N.detach()
    order_N = score_N.argsort(descending=True, stable=True)  # lists are in the order of tokens
    order_N = order_N[expert_N[order_N].argsort(stable=True)]
    counts_E = routing.counts_E
    starts_E = counts_E.cumsum(0) - counts_E
    place_N = torch.arange(len(expert_N), device=expert_N.device) - starts_E[expert_N[order_N]]
    limit_E = limits(moe, len(expert_N), score_N)
    kept_N = torch.zeros_like(expert_N, dtype=torch.bool)
    kept_N[order_N] = place_N < limit_E[expert_N[order_N]]
    return Routing(routing.unit_N[kept_N], expert_N[kept_N], routing.score_N[kept_N], torch.minimum(counts_E, limit_E))
