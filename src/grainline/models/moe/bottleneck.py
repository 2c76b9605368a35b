"""Experts behind a bottleneck: tokens descend to R dims, go to experts of that width, and their sums ascend again.

BigMac (arXiv 2502.16927, section 3): descending once before the dispatch and ascending once after the combine gives the
numbers of doing both inside each expert, as both are linear, and what travels is R wide instead of D. The router and
what stands beside the experts (shared ones, costless ones) see the whole token.
"""

from __future__ import annotations

from torch import Tensor, nn

from grainline.documents import ModelConfig
from grainline.models.layers import Linear


def check_latent(config: ModelConfig) -> str | None:
    """What a person should know of a bottleneck that is none; None if nothing."""
    latent = None if config.moe is None else config.moe.latent
    if latent is None or latent < config.hidden_size:
        return None
    return (
        f"moe.latent {latent} is no less than the model's {config.hidden_size} dims, so that nothing is saved on the "
        f"way and two products are added: {max(1, config.hidden_size // 4)} would be BigMac's."
    )


class Bottleneck(nn.Module):
    """The two projections of a layer: dense weights that every rank has. No norm lies between, as in the paper."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.moe is not None
        assert config.moe.latent is not None
        self.down = Linear(config.hidden_size, config.moe.latent, bias=False)
        self.up = Linear(config.moe.latent, config.hidden_size, bias=False)

    def descend(self, x_TD: Tensor) -> Tensor:
        """[T, D] → [T, R]."""
        out: Tensor = self.down(x_TD)
        return out

    def ascend(self, x_TR: Tensor) -> Tensor:
        """[T, R] → [T, D], after the scores: once a token, not once a choice."""
        out: Tensor = self.up(x_TR)
        return out
