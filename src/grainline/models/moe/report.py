"""What every router reports alike: z, balance, entropy and loads, from its logits, its scores and whom it chose.

Balance is judged within each sequence (DeepSeek-V3, arXiv 2412.19437, equations 17–20), so that the sum over a batch
doesn't depend on how it is divided among ranks and micro-batches; balance over the whole batch is what the selection
bias is stepped for (`balance.step_bias`), and needs no loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grainline.documents.moe import Moe
from grainline.models.moe.seams import RouterReport


def router_report(
    moe: Moe,
    logits_TE: Tensor,
    score_TE: Tensor,
    unit_N: Tensor,
    expert_N: Tensor,
    sequences: int,
    rows_E: Tensor | None = None,
) -> RouterReport:
    """The report on who chose whom, before anything was dropped or added for capacity or tiles.

    logits_TE, score_TE: of all choices, with their graph; unit_N, expert_N: the choices made; rows_E: what came of
    them, if anything was.
    """
    z = logits_TE.logsumexp(-1).square().sum()
    balance = sequence_balance(score_TE, unit_N, expert_N, sequences, weights(moe, score_TE))
    counts_E = torch.bincount(expert_N, minlength=moe.choices)
    return RouterReport(z, balance, counts_E, counts_E if rows_E is None else rows_E, entropy(logits_TE, score_TE))


def sequence_balance(
    score_TE: Tensor, unit_N: Tensor, expert_N: Tensor, sequences: int, weight_E: Tensor | None = None
) -> Tensor:
    """Σ over sequences of S·Z·Σₑ ηₑ·fₑ·Pₑ: share of the choices times mean share of the scores, within one sequence,
    times its tokens; Z = Σ 1/ηₑ makes it S where both go as 1/ηₑ, which is where it is least. ηₑ is 1 where no weights
    are given. (MoE++ has f sum to K and no Z: its coefficient is ours times Z/K.)
    """
    experts = score_TE.shape[1]
    length = score_TE.shape[0] // max(1, sequences)
    place_N = unit_N // max(1, length) * experts + expert_N
    count_BE = torch.bincount(place_N, minlength=sequences * experts).view(sequences, experts).to(score_TE.dtype)
    load_BE = count_BE / count_BE.sum(-1, keepdim=True).clamp_min(1)
    load_BE = load_BE * (experts if weight_E is None else weight_E * (1 / weight_E).sum())
    share_BSE = _shares(score_TE).view(sequences, length, experts)
    return (load_BE * share_BSE.sum(1)).sum()


def weights(moe: Moe, like: Tensor) -> Tensor | None:
    """η of each choice: τ for experts without weights, 1 for the others (MoE++, arXiv 2410.07348, section 3.3)."""
    if not moe.costless:
        return None
    return torch.cat((like.new_ones(moe.pool), like.new_full((moe.costless,), moe.tau)))


@torch.no_grad()
def entropy(logits_TE: Tensor, score_TE: Tensor) -> Tensor:
    """Σ over tokens of the entropy of its scores, made to sum to 1, in nats: 0 where decided, T·ln E where even.

    NaN where any logit is none or infinite, also where the scores hide it: the guard of a run stops by that.
    """
    total = torch.special.entr(_shares(score_TE)).sum()
    return torch.where(logits_TE.isfinite().all(), total, torch.nan)


def _shares(score_TE: Tensor) -> Tensor:
    return score_TE / score_TE.sum(-1, keepdim=True).clamp_min(1e-20)  # sigmoids can all be 0
