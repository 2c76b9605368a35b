"""The dispatcher of a layer whose experts are all here."""

from __future__ import annotations

from torch import Tensor

from grainline import kernels
from grainline.models.moe.seams import ExpertGroup, Routing


class LocalDispatcher:
    """Sorts rows by expert; one op gathers, computes and adds up: no communication."""

    def __call__(self, x_TD: Tensor, routing: Routing, experts: ExpertGroup) -> Tensor:
        """See `seams.Dispatcher`."""
        order_N = kernels.sort_by_expert(routing.expert_N, len(routing.counts_E))
        return experts.mixture(x_TD, routing.score_N[order_N], routing.unit_N[order_N], routing.counts_E)
