"""Every router with the features of an expert layer that the document allows: what many tests run through."""

from __future__ import annotations

from itertools import combinations
from typing import Any, get_args

from grainline.documents import ModelConfig
from grainline.documents.moe import REFUSED, Feature, RouterKind
from grainline.models.moe.routers import ROUTERS

WITH: dict[Feature, dict[str, Any]] = {
    "bottleneck": {"expert": "bottleneck", "latent": 4},
    "costless": {"zero": 1, "copy_experts": 2, "constant": 3},
    "reuse": {"reuse": 2},
    "groups": {"groups": 4, "top_groups": 2},
    "bias_balanced": {"bias_balanced": True},
    "capacity": {"capacity": 0.75},
}
NEEDS: dict[RouterKind, dict[str, Any]] = {"depth-averaged": {"router_hidden": 6}, "token-rounding": {"tile": 4}}


def allowed(kind: RouterKind) -> list[tuple[Feature, ...]]:
    """None, each, each two, and all at once."""
    those = [feature for feature in get_args(Feature) if (kind, feature) not in REFUSED]
    sets: list[tuple[Feature, ...]] = [(), *((one,) for one in those), *combinations(those, 2)]
    return sets if tuple(those) in sets else [*sets, tuple(those)]


CASES = [(kind, features) for kind in ROUTERS for features in allowed(kind)]
"""Router and features."""


def routed(kind: RouterKind, features: tuple[Feature, ...] | None = None, **sizes: Any) -> ModelConfig:
    """A tiny model with MTP and all of a router's features, or with some; `dense_layers` may be among the sizes."""
    moe = {"experts": 8, "top_k": 2, "expert_hidden": 6, "router": kind, "dense_layers": sizes.pop("dense_layers", ())}
    moe |= NEEDS.get(kind, {})
    for feature in allowed(kind)[-1] if features is None else features:
        moe |= WITH[feature]
    whole = {"vocab_size": 60, "hidden_size": 12, "layers": 3, "ffn_hidden": 16, "max_positions": 64, "mtp_depth": 1}
    return ModelConfig.parse({**whole, **sizes, "attention": {"heads": 2, "head_dim": 6}, "moe": moe})
