"""Token rounding (SonicMoE, arXiv 2512.14080): counts per expert become multiples of a tile, so none is half full.

Tokens choose their top k; then each expert's count is rounded up or down to a multiple of `tile` rows. Down drops its
weakest tokens, up adds its best of those that hadn't chosen it, so at most a tile per expert differs from top-k. Kept
tokens keep their top-k weight, added ones come with their plain score, and what is dropped isn't made up for.

It is done per micro-batch and depends on later tokens: only in training. Balance and loads are told before rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.documents.moe import Moe, Rounding
from grainline.models.moe.expert_choice import routing_of
from grainline.models.moe.router import TopKRouter
from grainline.models.moe.seams import Moment, Routing

LAYERS_APART = 8191
"""Between the draws of two layers of a step."""


class TokenRoundingRouter(TopKRouter):
    """Top-k by softmax scores, its counts rounded to tiles."""

    def choose(self, score_TE: Tensor, sequences: int, moment: Moment) -> tuple[Routing, Routing]:
        """See `TopKRouter`."""
        choice_TE = self.open_choices(score_TE.detach(), moment)
        chosen = self.top_k(score_TE, choice_TE)
        if not moment.training or not len(score_TE):
            return chosen, chosen
        chosen_TE = torch.zeros_like(score_TE, dtype=torch.bool)
        chosen_TE[chosen.unit_N, chosen.expert_N] = True
        weight_TE = torch.where(chosen_TE, 0.0, score_TE * self.moe.scale)
        weight_TE = weight_TE.index_put((chosen.unit_N, chosen.expert_N), chosen.score_N)
        order_TE = candidates(choice_TE, weight_TE.detach(), chosen_TE)
        mass_TE = score_TE.detach().gather(0, order_TE)
        seed = moment.seed * LAYERS_APART + self.layer
        counts = round_counts(chosen.counts_E, mass_TE, self.moe.tile, self.moe.rounding, seed)
        return routing_of(weight_TE, first_of(order_TE, counts)), chosen


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


def first_of(order_TE: Tensor, counts: list[int]) -> Tensor:
    """Table of bools: the first so many tokens of each expert's order."""
    taken_E = torch.tensor(counts, device=order_TE.device)
    taken_TE = torch.arange(len(order_TE), device=order_TE.device).unsqueeze(1) < taken_E
    return torch.zeros_like(taken_TE).scatter_(0, order_TE, taken_TE)


def round_counts(counts_E: Tensor, mass_TE: Tensor, tile: int, rounding: Rounding, seed: int = 0) -> list[int]:
    """Counts as multiples of `tile`, none of more than there are tokens: what can't go up goes down.

    mass_TE: scores of each expert's candidates, in their order; seed: of the draws, if any are made.
    """
    tokens, counts = len(mass_TE), counts_E.tolist()
    downs = [count // tile * tile for count in counts]
    ups = [down if down == count else down + tile for count, down in zip(counts, downs, strict=True)]
    goes_up = ROUNDINGS[rounding](counts, downs, tile, mass_TE, seed)
    return [up if is_up and up <= tokens else down for up, down, is_up in zip(ups, downs, goes_up, strict=True)]


# As torch.compiler.disable does, whose import alone takes a second.
round_counts._torchdynamo_disable = True  # type: ignore[attr-defined]

Choice = Callable[[list[int], list[int], int, Tensor, int], list[bool]]


def _nearest(counts: list[int], downs: list[int], tile: int, mass_TE: Tensor, seed: int) -> list[bool]:
    return [2 * (count - down) > tile for count, down in zip(counts, downs, strict=True)]  # half a tile goes down


def _stochastic(counts: list[int], downs: list[int], tile: int, mass_TE: Tensor, seed: int) -> list[bool]:
    draws = torch.rand(len(counts), generator=torch.Generator().manual_seed(seed)).tolist()
    return [draw * tile < count - down for draw, count, down in zip(draws, counts, downs, strict=True)]


def _score(counts: list[int], downs: list[int], tile: int, mass_TE: Tensor, seed: int) -> list[bool]:
    """Up where that adds less score than going down would drop."""
    up_to_TE = mass_TE.nan_to_num().cumsum(0, dtype=torch.float64)
    up_to_TE = torch.cat((torch.zeros_like(up_to_TE[:1]), up_to_TE))  # of the first 0 … T candidates
    place_3E = torch.tensor([counts, downs, [down + tile for down in downs]], device=mass_TE.device)
    here, below, above = up_to_TE.gather(0, place_3E.clamp_max(len(mass_TE))).tolist()
    return [a - h < h - b for h, b, a in zip(here, below, above, strict=True)]


def _balanced(counts: list[int], downs: list[int], tile: int, mass_TE: Tensor, seed: int) -> list[bool]:
    """Each expert makes up for what those before it added or dropped: the total stays within half a tile."""
    carried, found = 0, []
    for count, down in zip(counts, downs, strict=True):
        rest = down - count
        is_up = rest < 0 and down + tile <= len(mass_TE) and abs(rest + tile + carried) < abs(rest + carried)
        carried += rest + tile * is_up
        found.append(is_up)
    return found


ROUNDINGS: dict[Rounding, Choice] = {
    "nearest": _nearest,
    "stochastic": _stochastic,
    "score": _score,
    "balanced": _balanced,
    "up": lambda counts, *_: [True] * len(counts),
    "down": lambda counts, *_: [False] * len(counts),
}
"""Rounding → whether each expert's count, given what is below it, goes up. Ties go down."""
