"""Experts without a product: zero, copy and constant ones (MoE++, arXiv 2410.07348, section 3.1).

Their ids follow those of the experts with weights: zero ones first, then copy, then constant. They are computed where
the token is, all at once, and are never dispatched.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

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
        """Their part of the output [T, D], and what is left for the experts with weights.

        Σ score · expert(x) is a multiple of x, and a sum of few vectors v: no row is gathered.
        """
        expert_N, unit_N, score_N = routing.expert_N, routing.unit_N, routing.score_N
        copied_N = (expert_N >= self.first_copy) & (expert_N < self.first_constant)
        times_T = score_N.new_zeros(len(x_TD)).index_add(0, unit_N[copied_N], score_N[copied_N])
        vectors_TD = None
        if self.weight_J2D is not None and self.vector_JD is not None:
            score_TJ = self._scores_of_constants(len(x_TD), routing)
            logits_TX = linear(x_TD, self.weight_J2D.flatten(0, 1).to(x_TD.dtype))
            mix_TJ2 = logits_TX.to(score_N.dtype).unflatten(1, (self.constants, 2)).softmax(-1)
            times_T = times_T + (score_TJ * mix_TJ2[..., 0]).sum(-1)
            vectors_TD = (score_TJ * mix_TJ2[..., 1]).to(x_TD.dtype) @ self.vector_JD.to(x_TD.dtype)
        out_TD = times_T.unsqueeze(-1).to(x_TD.dtype) * x_TD
        return out_TD if vectors_TD is None else out_TD + vectors_TD, self._others(routing)

    def _scores_of_constants(self, tokens: int, routing: Routing) -> Tensor:
        mine_N = routing.expert_N >= self.first_constant
        place_N = routing.unit_N[mine_N] * self.constants + routing.expert_N[mine_N] - self.first_constant
        score_N = routing.score_N[mine_N]
        return score_N.new_zeros(tokens * self.constants).index_add(0, place_N, score_N).view(tokens, self.constants)

    def _others(self, routing: Routing) -> Routing:
        kept_N = routing.expert_N < self.pool
        unit_N, expert_N, score_N = (t[kept_N] for t in (routing.unit_N, routing.expert_N, routing.score_N))
        counts_E = routing.counts_E[: self.pool]
        return replace(routing, unit_N=unit_N, expert_N=expert_N, score_N=score_N, counts_E=counts_E)
