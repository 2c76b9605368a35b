"""Progressive scaling routing (ReXMoE, arXiv 2510.17483, section 3.3): in training candidates grow in number.

Which experts are open is drawn anew for each step and layer, from nothing but (seed, step, layer): so it is the same on
all ranks, in all micro-batches and where blocks are computed again, and other draws don't move it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grainline.documents import GrainlineError, ModelConfig, Recipe
from grainline.documents.moe import NOT_CAUSAL, Moe
from grainline.documents.recipe import Opening
from grainline.models.moe.seams import Moment, RouterReport

LAYERS_APART = 65_537
"""Between the draws of two layers of a step: seeds of two steps are never so many steps apart."""

NEARLY = 1e-9
"""What binary fractions may lack of a whole number."""


@dataclass(frozen=True)
class Closed:
    """Experts that can't be chosen now, and how many can."""

    mask: Tensor  # bool: [E], or [T, E] where tokens differ
    open: int

    def hide(self, logits_TE: Tensor) -> Tensor:
        """Logits so low that softmax and sigmoid make them 0; finite, as infinite ones stop a run."""
        return logits_TE.masked_fill(self.mask, -1e30)

    def as_if_whole(self, report: RouterReport) -> RouterReport:
        """Balance that is 1 per token when the open ones are evenly loaded."""
        return replace(report, balance=report.balance * (self.open / self.mask.shape[-1]))


def open_experts(opening: Opening, moe: Moe, progress: float) -> int:
    """N_t: how many of the pool are open once this share of the steps is done."""
    share = 1 / moe.reuse if opening.open_share is None else opening.open_share
    first, pool = share * moe.pool, moe.pool
    if opening.opening == "none" or progress >= opening.open_until:
        return pool
    if progress < opening.open_from:
        return max(1, math.floor(first + NEARLY))
    done = (progress - opening.open_from) / (opening.open_until - opening.open_from)
    if opening.opening == "stepwise":  # r − 1 jumps, the first at open_from and the last at open_until
        jumps = max(1, round(1 / share) - 1)
        done = (1 + math.floor(done * (jumps - 1) + NEARLY)) / jumps
    return max(1, math.floor(first + (pool - first) * done + NEARLY))


def closed_experts(
    config: ModelConfig, layer: int, moment: Moment, tokens: int, sequences: int, device: torch.device | str = "cpu"
) -> Closed | None:
    """What is closed to the router of a layer at this moment; None where everything is open, as outside training.

    Costless experts are always open. `sequences` equal runs of tokens make up `tokens`; with draws per position, those
    at the same place of each are alike, so that the layout of a batch changes nothing.
    """
    moe, opening = config.moe, moment.opening
    assert moe is not None
    if not moment.training or opening.opening == "none":
        return None
    count = open_experts(opening, moe, moment.progress)
    if count >= moe.pool:
        return None
    generator = torch.Generator().manual_seed(moment.seed * LAYERS_APART + layer)
    if opening.draw == "token":
        length = tokens // sequences
        order_SE = torch.rand(length, moe.pool, generator=generator).argsort(-1)
        mask = torch.ones(length, moe.choices, dtype=torch.bool)
        mask[:, moe.pool :] = False
        mask.scatter_(1, order_SE[:, :count], False)
        return Closed(mask.repeat(sequences, 1).to(device), count + moe.costless)
    order_E = torch.randperm(moe.pool, generator=generator)
    if opening.draw == "local-first":
        first = config.expert_layers(layer).index(layer) * moe.experts
        own = (order_E >= first) & (order_E < first + moe.experts)
        order_E = torch.cat((order_E[own], order_E[~own]))
    mask = torch.ones(moe.choices, dtype=torch.bool)
    mask[moe.pool :] = False
    mask[order_E[:count]] = False
    return Closed(mask.to(device), count + moe.costless)


# As torch.compiler.disable does, whose import alone takes a second.
closed_experts._torchdynamo_disable = True  # type: ignore[attr-defined]


def balanced_loads(config: ModelConfig, counts_LE: Tensor, moment: Moment) -> Tensor:
    """What selection biases follow (`balance.step_bias`): a layer's choices of each expert, or, with load = "bank", the
    mean choices by the layers that share it and could choose it. NaN where an expert was closed to a layer.
    """
    assert config.moe is not None
    opening, pool, loads_LE = moment.opening, config.moe.pool, counts_LE.double()
    open_LE = torch.ones_like(loads_LE, dtype=torch.bool)
    if opening.draw != "token":
        for row, layer in enumerate(config.sparse_layers):
            closed = closed_experts(config, layer, moment, 1, 1, counts_LE.device)
            if closed is not None:
                open_LE[row] = ~closed.mask
    if opening.load == "bank":
        shape = (-1, config.moe.reuse)
        chosen_GP, could_GP = (x[:, :pool].unflatten(0, shape).sum(1) for x in (loads_LE, open_LE))
        loads_LE[:, :pool] = (chosen_GP / could_GP.clamp_min(1)).repeat_interleave(config.moe.reuse, 0)
    return loads_LE.masked_fill(~open_LE, torch.nan)


def check_opening(recipe: Recipe, config: ModelConfig) -> None:
    """Raise GrainlineError where a recipe's [routing] can't be had with this model."""
    opening, moe = recipe.routing, config.moe
    if opening.opening == "none":
        return
    if moe is None:
        raise GrainlineError(f"routing.opening is '{opening.opening}', but the model has no experts: leave it out.")
    if moe.router in NOT_CAUSAL:
        raise GrainlineError(
            f"routing.opening is '{opening.opening}', but with router '{moe.router}' experts don't wait to be chosen: "
            "set moe.router to 'softmax-topk' or 'sigmoid-topk', or routing.opening = 'none'."
        )
    if moe.groups > 1:
        raise GrainlineError("routing.opening doesn't go with moe.groups: an open group may have no open expert.")
    if moe.reuse == 1 and opening.open_share is None:
        raise GrainlineError(
            "routing.opening opens the experts of neighbouring layers, and the model shares none: set moe.reuse, or "
            "routing.open_share, the part of a layer's own that is open at first."
        )
    fewest = open_experts(opening, moe, 0.0) + moe.costless
    if fewest < moe.top_k:
        raise GrainlineError(f"routing.open_share leaves {fewest} experts open at first, fewer than top_k {moe.top_k}.")
