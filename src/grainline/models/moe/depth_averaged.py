"""ZAYA1's router (arXiv 2511.17127): a narrow stream of its own from layer to layer, and an MLP that chooses.

r_l = W·x + b + γ_l ⊙ r_{l−1} ("exponential depth averaging"); the logits of all choices are a GELU MLP of RMSNorm(r_l).
One of the choices may be to skip: a zero expert, whose bias starts so low that few tokens begin by skipping. Weights
are the scores without bias, and where the config says so (as ZAYA1's does) they don't have to sum to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from grainline.documents import ModelConfig
from grainline.models.layers import Linear, RMSNorm
from grainline.models.moe.router import TopKRouter

SKIP_BIAS = -1.0
"""What the selection bias of a zero expert starts at."""


class DepthAveragedRouter(TopKRouter):
    """A top-k router whose logits come of the carry: r [T, R] of this layer, in float32 at least."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        width = self.moe.router_hidden
        assert width is not None
        self.down = Linear(config.hidden_size, width)
        self.gamma_R = nn.Parameter(torch.empty(width)) if config.takes_carry(layer) else None
        self.norm = RMSNorm(width, config.norm_eps)
        self.first = Linear(width, width)
        self.second = Linear(width, width)
        self.weight_ED = nn.Parameter(torch.empty(self.moe.choices, width))  # the MLP's last layer: its D is R

    def logits(self, x_TD: Tensor, carry_TC: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """[T, E], and r for the next sparse layer's router."""
        r_TR = self.down(x_TD)
        if self.gamma_R is not None and carry_TC is not None:
            r_TR = torch.addcmul(r_TR, carry_TC.to(r_TR.dtype), self.gamma_R.to(r_TR.dtype))
        h_TR = gelu(self.second(gelu(self.first(self.norm(r_TR)))))
        return linear(h_TR, self.weight_ED.to(h_TR.dtype)), r_TR
