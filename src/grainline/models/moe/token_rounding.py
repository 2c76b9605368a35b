"""Token rounding (SonicMoE, arXiv 2512.14080): counts per expert become multiples of a tile, so none is half full.

Tokens choose their top k; then each expert's count is rounded up or down to a multiple of `tile` rows. Down drops its
weakest tokens, up adds its best of those that hadn't chosen it, so at most a tile per expert differs from top-k. Kept
tokens keep their top-k weight, added ones come with their plain score, and what is dropped isn't made up for.

It is done per micro-batch and depends on later tokens: only in training. Balance and loads are told before rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grainline import kernels
from grainline.documents import GrainlineError
from grainline.documents.moe import Moe
from grainline.models.moe.expert_choice import routing_of
from grainline.models.moe.router import TopKRouter
from grainline.models.moe.seams import Moment, Routing

LAYERS_APART = 8191
"""Between the draws of two layers of a step."""


class TokenRoundingRouter(TopKRouter):
    """Top-k by softmax scores, its counts rounded to tiles."""

    def choose(
        self, score_TE: Tensor, sequences: int, moment: Moment, closed: Tensor | None = None
    ) -> tuple[Routing, Routing]:
        """See `TopKRouter`. Where tokens differ in what is closed to them, a tile may stay unfilled."""
        choice_TE = self.open_choices(score_TE.detach(), closed)
        chosen = self.top_k(score_TE, choice_TE)
        if not moment.training or not len(score_TE):
            return chosen, chosen
        chosen_TE = torch.zeros_like(score_TE, dtype=torch.bool)
        chosen_TE[chosen.unit_N, chosen.expert_N] = True
        weight_TE = torch.where(chosen_TE, 0.0, score_TE * self.moe.scale)
        weight_TE = weight_TE.index_put((chosen.unit_N, chosen.expert_N), chosen.score_N)
        order_TE = candidates(choice_TE, weight_TE.detach(), chosen_TE)
        mass_TE = score_TE.detach().gather(0, order_TE)
        draw_E = draws(moment.seed * LAYERS_APART + self.layer, self.moe.pool)
        counts_E = kernels.round_counts(chosen.counts_E, mass_TE, self.moe.tile, self.moe.rounding, draw_E)
        taken_TE = first_of(order_TE, counts_E)
        return routing_of(weight_TE, taken_TE if closed is None else taken_TE & ~closed), chosen


def draws(seed: int, experts: int) -> Tensor:
    """Uniform numbers in [0, 1), of nothing but the seed, on the CPU."""
    return torch.rand(experts, generator=torch.Generator().manual_seed(seed))


# As torch.compiler.disable does, whose import alone takes a second.
draws._torchdynamo_disable = True  # type: ignore[attr-defined]


def check_tiles(moe: Moe, tokens: int) -> str | None:
    """What a person should know before micro-batches of so many tokens are rounded; None if nothing, or no rounding.

    Raises GrainlineError where every count would become 0. Quality falls below two tiles of tokens for an expert on
    average (the paper's ablation of tokens per expert over tile: as good at 8, 4 and 2, worse at 1).
    """
    if moe.router != "token-rounding":
        return None
    if moe.tile > tokens:
        raise GrainlineError(
            f"moe.tile {moe.tile} is more than the {tokens} tokens of a micro-batch, so that no expert would get any: "
            "lower it, or raise execution.micro_batch_sequences or training.batch_tokens."
        )
    mean = tokens * moe.top_k / moe.pool
    if mean >= 2 * moe.tile:
        return None
    return (
        f"Of a micro-batch an expert gets {mean:.0f} tokens on average, less than two tiles of moe.tile {moe.tile}: "
        "rounding costs quality there. A smaller tile or larger micro-batches mend it."
    )


def candidates(choice_TE: Tensor, weight_TE: Tensor, chosen_TE: Tensor) -> Tensor:
    """Tokens in the order in which each expert takes them, [T, E]: those that chose it by weight, then the others."""
    below_TE = choice_TE - choice_TE.amax(0, keepdim=True).clamp_min(0) - 1  # all under 0, the least weight
    return torch.where(chosen_TE, weight_TE, below_TE).argsort(dim=0, descending=True, stable=True)


def first_of(order_TE: Tensor, counts_E: Tensor) -> Tensor:
    """Table of bools: the first so many tokens of each expert's order."""
    taken_TE = torch.arange(len(order_TE), device=order_TE.device).unsqueeze(1) < counts_E
    return torch.zeros_like(taken_TE).scatter_(0, order_TE, taken_TE)
