"""Experts without a product: zero, copy and constant ones (MoE++, arXiv 2410.07348, section 3.1).

Their ids follow those of the experts with weights: zero ones first, then copy, then constant. They are computed where
the token is, all at once, and are never dispatched.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from grainline.documents import ModelConfig
from grainline.models.moe.seams import Routing


class CostlessExperts(nn.Module):
    """J constant experts give a₁·x + a₂·v with [a₁, a₂] = softmax(W·x); copy ones give x, zero ones 0."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        moe, size = config.moe, config.hidden_size
        assert moe is not None
        self.pool, self.constants = moe.pool, moe.constant
        self.first_copy = moe.pool + moe.zero
        self.first_constant = self.first_copy + moe.copy_experts
        self.weight_J2D = nn.Parameter(torch.empty(moe.constant, 2, size)) if moe.constant else None
        self.vector_JD = nn.Parameter(torch.empty(moe.constant, size)) if moe.constant else None

    def forward(self, x_TD: Tensor, routing: Routing) -> tuple[Tensor, Routing]:
        """Their part of the output [T, D], and what is left for the experts with weights."""
        expert_N, unit_N, score_N = routing.expert_N, routing.unit_N, routing.score_N
        copied_N = (expert_N >= self.first_copy) & (expert_N < self.first_constant)
        of_x_T = score_N.new_zeros(x_TD.shape[0]).index_add(0, unit_N[copied_N], score_N[copied_N])
        added_TD = None
        if self.weight_J2D is not None and self.vector_JD is not None:
            constant_N = expert_N >= self.first_constant
            place_N = unit_N[constant_N] * self.constants + expert_N[constant_N] - self.first_constant
            score_TJ = score_N.new_zeros(x_TD.shape[0] * self.constants).index_add(0, place_N, score_N[constant_N])
            score_TJ = score_TJ.view(-1, self.constants)
            mix_TJ2 = torch.einsum("td,jad->tja", x_TD, self.weight_J2D.to(x_TD.dtype)).to(score_TJ.dtype).softmax(-1)
            of_x_T = of_x_T + (score_TJ * mix_TJ2[..., 0]).sum(-1)
            added_TD = (score_TJ * mix_TJ2[..., 1]).to(x_TD.dtype) @ self.vector_JD.to(x_TD.dtype)
        out_TD = of_x_T.unsqueeze(-1).to(x_TD.dtype) * x_TD
        left_N = expert_N < self.pool
        left = replace(
            routing,
            unit_N=unit_N[left_N],
            expert_N=expert_N[left_N],
            score_N=score_N[left_N],
            counts_E=routing.counts_E[: self.pool],
        )
        return out_TD if added_TD is None else out_TD + added_TD, left
