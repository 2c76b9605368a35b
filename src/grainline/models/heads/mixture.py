"""A mixture of unlike experts: each text is answered by one of them, which a gate chooses (Hecto, arXiv 2506.22919).

Published: the two views, the kinds of experts, τ = 1.5, top-1, and the names of both regularisers. The paper's method
section could not be read; signs, weights and the gradient estimator here are ours, and say so in docs/hecto.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from grainline.documents import GrainlineError
from grainline.documents.classification import Head
from grainline.models.heads.experts import EXPERTS, HeadExpert, answer
from grainline.models.heads.views import Views


@dataclass(frozen=True)
class Answer:
    """Logits or values [B, C], the gate's probabilities [B, E], and whom it chose [B]."""

    out_BC: Tensor
    gate_BE: Tensor
    expert_B: Tensor


class HectoHead(nn.Module):
    """Both projections, the gate on the pooled view, and the experts, each on its own view."""

    def __init__(self, config: Head, width: int, outputs: int) -> None:
        """`width`: of the encoder's states; `outputs`: C, classes, or 1 for a regression."""
        super().__init__()
        self.config = config
        made = [EXPERTS[kind](config.proj, h, outputs) for kind, h in zip(config.experts, config.widths, strict=True)]
        self.experts = nn.ModuleList(made)
        self.pooled_proj = nn.Linear(width, config.proj)
        reads_order = any(expert.view == "sequence" for expert in made)
        self.sequence_proj = nn.Linear(width, config.proj) if reads_order else None
        self.gate = nn.Linear(config.proj, len(made))
        self.outputs = outputs

    def forward(self, views: Views) -> Answer:
        """In training as `config.gradient` says; otherwise each expert is run on its own rows, if it has any."""
        pooled_BP = self.pooled_proj(views.pooled_BD)
        gate_BE = (self.gate(pooled_BP) / self.config.temperature).softmax(-1)
        if not bool(gate_BE.isfinite().all()):
            raise GrainlineError("The gate's probabilities aren't numbers: the encoder gives NaN or infinite states.")
        expert_B = gate_BE.argmax(-1)
        sequence_BSP, length_B = None, None
        if self.sequence_proj is not None:
            states_BSD, length_B = views.ordered
            sequence_BSP = self.sequence_proj(states_BSD)

        def run(i: int, rows_b: Tensor | None = None) -> Tensor:
            expert = self.experts[i]
            assert isinstance(expert, HeadExpert)
            if expert.view == "pooled":
                return answer(expert, pooled_BP, None, rows_b)
            assert sequence_BSP is not None
            return answer(expert, sequence_BSP, length_B, rows_b)

        if self.training and self.config.gradient == "straight-through":
            # 0 is added to the choice, so that the output is exactly the chosen expert's.
            weight_BE = nn.functional.one_hot(expert_B, len(self.experts)) + (gate_BE - gate_BE.detach())
            out_BC = sum(weight_BE[:, i : i + 1] * run(i) for i in range(len(self.experts)))
            assert isinstance(out_BC, Tensor)
            return Answer(out_BC, gate_BE, expert_B)
        out_BC = gate_BE.new_zeros(len(expert_B), self.outputs)
        for i in range(len(self.experts)):
            rows_b = (expert_B == i).nonzero().flatten()
            if len(rows_b):
                found_bC = run(i, rows_b)
                if self.training:
                    found_bC = found_bC * gate_BE[rows_b, i : i + 1]
                out_BC = out_BC.index_copy(0, rows_b, found_bC.to(out_BC.dtype))
        return Answer(out_BC, gate_BE, expert_B)


@dataclass(frozen=True)
class GateTerms:
    """Of a batch: the mean entropy of the gate in nats (this rank's part of it), and Σᵢ (p̄ᵢ − 1/E)²."""

    entropy: Tensor
    diversity: Tensor


def gate_terms(gate_BE: Tensor, total: int | None = None, sum_: Callable[[Tensor], Tensor] = lambda t: t) -> GateTerms:
    """0 and 0 where every text is decided and the batch even; ln E and 0 where every text is undecided.

    total: texts of the batch over all ranks; sum_: adds a tensor up over them, in place. The mean probability p̄ is the
    whole batch's, and its gradient goes to this rank's texts: gradients then add up to one process's.
    """
    total = total or len(gate_BE)
    entropy = torch.special.entr(gate_BE).sum() / total
    own_E = gate_BE.sum(0)
    others_E = sum_(own_E.detach().clone()) - own_E.detach()
    mean_E = (own_E + others_E) / total
    return GateTerms(entropy, (mean_E - 1 / gate_BE.shape[1]).square().sum())
