"""The table of routers. Which features of an expert layer each goes with is `documents.moe.REFUSED`."""

from __future__ import annotations

from collections.abc import Callable

from grainline.documents import ModelConfig
from grainline.documents.moe import RouterKind
from grainline.models.moe.depth_averaged import DepthAveragedRouter
from grainline.models.moe.expert_choice import ExpertChoiceRouter
from grainline.models.moe.gating_residual import GatingResidualRouter
from grainline.models.moe.router import TopKRouter
from grainline.models.moe.seams import Router
from grainline.models.moe.token_rounding import TokenRoundingRouter

ROUTERS: dict[RouterKind, Callable[[ModelConfig, int], Router]] = {
    "sigmoid-topk": TopKRouter,
    "softmax-topk": TopKRouter,
    "gating-residual": GatingResidualRouter,
    "expert-choice": ExpertChoiceRouter,
    "token-rounding": TokenRoundingRouter,
    "depth-averaged": DepthAveragedRouter,
}
"""Kind → what makes the router of a layer."""


def build_router(config: ModelConfig, layer: int) -> Router:
    """The router of layer number `layer`."""
    assert config.moe is not None
    return ROUTERS[config.moe.router](config, layer)
