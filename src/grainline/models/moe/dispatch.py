"""The dispatcher of a layer whose experts are all here."""

from __future__ import annotations

from torch import Tensor

from grainline import kernels
from grainline.models.moe.seams import Dispatched, Routing


class LocalDispatcher:
    """Sorts rows by expert and sums the results back: no communication."""

    def dispatch(self, x_TD: Tensor, routing: Routing) -> Dispatched:
        """See `seams.Dispatcher`."""
        order_N = routing.expert_N.argsort(stable=True)
        unit_N = routing.unit_N[order_N]
        rows_ND = x_TD.index_select(0, unit_N)
        return Dispatched(rows_ND, routing.counts_E, unit_N, routing.score_N[order_N], x_TD.shape[0])

    def combine(self, rows_ND: Tensor, sent: Dispatched) -> Tensor:
        """See `seams.Dispatcher`."""
        return kernels.combine_rows(rows_ND, sent.score_N, sent.unit_N, sent.units)
