"""The expert layer: route, dispatch, compute, combine, and what stands beside the experts."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from grainline.documents import ModelConfig
from grainline.models.layers import SwigluFfn
from grainline.models.moe.bottleneck import Bottleneck
from grainline.models.moe.costless import CostlessExperts
from grainline.models.moe.dispatch import LocalDispatcher
from grainline.models.moe.experts import SwigluExperts
from grainline.models.moe.routers import build_router
from grainline.models.moe.seams import AT_REST, Dispatcher, Moment, Router, RouterReport


class MoeOutput(NamedTuple):
    """Of a layer: its output [B, S, D], what its router leaves to the next one's, and its report if asked for."""

    out_BSD: Tensor
    carry_TC: Tensor | None
    report: RouterReport | None


class MoeLayer(nn.Module):
    """Σ score · expert(x) over the chosen experts, plus the shared expert."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        moe = config.moe
        assert moe is not None
        self.router: Router = build_router(config, layer)
        # Experts that layers share are the model's (`Model.banks`), and come with each call.
        self.experts = build_experts(config) if moe.reuse == 1 else None
        self.costless = CostlessExperts(config) if moe.costless else None
        self.bottleneck = Bottleneck(config) if moe.expert == "bottleneck" else None
        self.shared = SwigluFfn(config.hidden_size, moe.shared_width) if moe.shared_experts else None
        self.dispatcher: Dispatcher = LocalDispatcher()

    def forward(
        self,
        x_BSD: Tensor,
        report: bool = False,
        carry_TC: Tensor | None = None,
        moment: Moment = AT_REST,
        bank: SwigluExperts | None = None,
    ) -> MoeOutput:
        """[B, S, D] → [B, S, D]."""
        experts = self.experts or bank
        assert experts is not None
        x_TD = x_BSD.flatten(0, 1)
        routed = self.router(x_TD, x_BSD.shape[0], report, carry_TC, moment)
        out_TD, routing = None, routed.routing
        if self.costless is not None:
            out_TD, routing = self.costless(x_TD, routing)
        rows_TD = x_TD if self.bottleneck is None else self.bottleneck.descend(x_TD)
        mixed_TD = self.dispatcher(rows_TD, routing, experts)
        mixed_TD = mixed_TD if self.bottleneck is None else self.bottleneck.ascend(mixed_TD)
        out_TD = mixed_TD if out_TD is None else out_TD + mixed_TD
        if self.shared is not None:
            out_TD = out_TD + self.shared(x_TD)
        return MoeOutput(out_TD.view_as(x_BSD), routed.carry, routed.report)


def build_experts(config: ModelConfig) -> SwigluExperts:
    """Those of one layer, or of the layers that share them."""
    moe = config.moe
    assert moe is not None
    return SwigluExperts(moe.pool, moe.latent or config.hidden_size, moe.expert_hidden)
