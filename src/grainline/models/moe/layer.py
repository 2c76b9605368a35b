"""The expert layer: route, dispatch, compute, combine, and the shared expert beside them."""

from __future__ import annotations

from torch import Tensor, nn

from grainline.documents import ModelConfig
from grainline.models.layers import SwigluFfn
from grainline.models.moe.dispatch import LocalDispatcher
from grainline.models.moe.experts import SwigluExperts
from grainline.models.moe.router import TopKRouter
from grainline.models.moe.seams import Dispatcher, RouterReport


class MoeLayer(nn.Module):
    """Σ score · expert(x) over the chosen experts, plus the shared expert."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.moe is not None
        self.router = TopKRouter(config)
        self.experts = SwigluExperts(config)
        self.shared = SwigluFfn(config.hidden_size, config.moe.shared_width) if config.moe.shared_experts else None
        self.dispatcher: Dispatcher = LocalDispatcher()

    def forward(self, x_BSD: Tensor, report: bool) -> tuple[Tensor, RouterReport | None]:
        """[B, S, D] → [B, S, D], and the router's report if asked for."""
        x_TD = x_BSD.flatten(0, 1)
        routing, router_report = self.router(x_TD, x_BSD.shape[0], report)
        sent = self.dispatcher.dispatch(x_TD, routing)
        out_TD = self.dispatcher.combine(self.experts(sent.rows_ND, sent.counts_E), sent)
        if self.shared is not None:
            out_TD = out_TD + self.shared(x_TD)
        return out_TD.view_as(x_BSD), router_report
