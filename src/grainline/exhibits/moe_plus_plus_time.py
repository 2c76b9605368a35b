"""The work of MoE++'s experts by itself: a layer of given sizes on routings with a given share of FFN choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grainline.documents import Attention, ModelConfig, Moe

if TYPE_CHECKING:
    from grainline.models.moe import Routing

EXPERTS, COSTLESS, TOP_K = 16, 4, 2
SHARES = {"plain": 1.0, "s 0.8": 0.8, "s 0.75": 0.75, "s 0.29": 2 / 7}
"""Name → s; with 16 + 4 experts those of τ = 1, 0.75 and 0.1."""


@dataclass(frozen=True)
class Trial:
    """Sizes of the layer, and tokens at a time."""

    size: int
    hidden: int
    tokens: int
    seed: int = 0

    def config(self, costless: bool) -> ModelConfig:
        """Of a model with such a layer."""
        kinds = {"zero": 1, "copy_experts": 1, "constant": 2} if costless else {}
        return ModelConfig(
            vocab_size=8,
            hidden_size=self.size,
            layers=1,
            ffn_hidden=self.hidden,
            attention=Attention(heads=1, head_dim=64),
            moe=Moe(experts=EXPERTS, top_k=TOP_K, expert_hidden=self.hidden, router="softmax-topk", **kinds),
        )


def routing(trial: Trial, share: float) -> Routing:
    """Each token chooses two different experts, and exactly this share of all choices, rounded, falls on FFNs."""
    import torch

    from grainline.models.moe import Routing

    draw = torch.Generator().manual_seed(trial.seed)
    choices = TOP_K * trial.tokens
    is_ffn_N = torch.arange(choices) < round(share * choices)
    is_ffn_TK = is_ffn_N[torch.randperm(choices, generator=draw)].view(trial.tokens, TOP_K)
    ffn_TK = torch.rand(trial.tokens, EXPERTS, generator=draw).topk(TOP_K).indices
    costless_TK = EXPERTS + torch.rand(trial.tokens, COSTLESS, generator=draw).topk(TOP_K).indices
    expert_N = torch.where(is_ffn_TK, ffn_TK, costless_TK).flatten()
    unit_N = torch.arange(trial.tokens).repeat_interleave(TOP_K)
    score_TK = torch.rand(trial.tokens, TOP_K, generator=draw) + 0.1
    score_N = (score_TK / score_TK.sum(-1, keepdim=True)).flatten()
    kinds = EXPERTS + (COSTLESS if share < 1 else 0)
    return Routing(unit_N, expert_N, score_N, torch.bincount(expert_N, minlength=kinds))


def prepared(trial: Trial) -> dict[str, Callable[[], object]]:
    """For each share the work of dispatcher, experts and costless ones, forward, without the router's."""
    import torch

    from grainline.models.build import build
    from grainline.models.moe import MoeLayer

    x_TD = torch.randn(trial.tokens, trial.size, generator=torch.Generator().manual_seed(trial.seed))
    layers = {costless: build(trial.config(costless)).blocks[0].ffn for costless in (False, True)}

    def run(share: float) -> Callable[[], object]:
        layer, chosen = layers[share < 1], routing(trial, share)
        assert isinstance(layer, MoeLayer)
        assert layer.experts is not None
        experts, costless, dispatcher = layer.experts, layer.costless, layer.dispatcher

        @torch.inference_mode()
        def work() -> object:
            if costless is None:
                return dispatcher(x_TD, chosen, experts)
            out_TD, rest = costless(x_TD, chosen)
            return out_TD + dispatcher(x_TD, rest, experts)

        return work

    return {name: run(share) for name, share in SHARES.items()}


def fitted(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """a and b of t = a + b·s by least squares."""
    import numpy as np

    shares, seconds = np.array(points, dtype=float).T
    slope, start = np.polyfit(shares, seconds, 1)
    return float(start), float(slope)
