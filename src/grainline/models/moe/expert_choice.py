"""Expert choice (Zhou et al. 2022, arXiv 2202.09368, section 3): experts choose tokens, so all have equally many.

A token gets 0 to E experts. Whether it is chosen depends on the tokens after it, so this is for training alone:
validation and generation take every token's plain top-k of the same scores.

The choice is made within each sequence, where the paper takes a batch: as even, but what a model learns then doesn't
depend on how a batch is divided into micro-batches and among ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grainline.models.moe.router import TopKRouter
from grainline.models.moe.seams import Moment, Routing


class ExpertChoiceRouter(TopKRouter):
    """Each expert takes its S·K/E best tokens of a sequence of S."""

    def choose(
        self, score_TE: Tensor, sequences: int, moment: Moment, closed: Tensor | None = None
    ) -> tuple[Routing, Routing]:
        """See `TopKRouter`."""
        if not moment.training:
            return super().choose(score_TE, sequences, moment, closed)
        chosen_TE = best_tokens(self.open_choices(score_TE.detach(), closed), sequences, self.moe.top_k)
        chosen_TE = chosen_TE if closed is None else chosen_TE & ~closed
        weight_TE = score_TE.masked_fill(~chosen_TE, 0.0)
        if self.moe.normalize:
            weight_TE = weight_TE / (weight_TE.sum(-1, keepdim=True) + 1e-20)
        routing = routing_of(weight_TE * self.moe.scale, chosen_TE)
        return routing, routing


def best_tokens(choice_TE: Tensor, sequences: int, top_k: int) -> Tensor:
    """Which tokens each expert takes, [T, E]: of each sequence its S·K/E best, rounded, and one at least."""
    tokens, experts = choice_TE.shape
    length = tokens // max(1, sequences)
    taken = min(length, max(1, round(length * top_k / experts)))
    choice_BSE = choice_TE.view(sequences, length, experts)
    chosen_BSE = torch.zeros_like(choice_BSE, dtype=torch.bool)
    chosen_BSE.scatter_(1, choice_BSE.topk(taken, dim=1, sorted=False).indices, True)
    return chosen_BSE.view(tokens, experts)


def routing_of(weight_TE: Tensor, chosen_TE: Tensor) -> Routing:
    """The flat lists of a choice that is given as a table of bools."""
    unit_N, expert_N = chosen_TE.nonzero(as_tuple=True)
    return Routing(unit_N, expert_N, weight_TE[unit_N, expert_N], chosen_TE.sum(0))
