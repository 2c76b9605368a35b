"""The dispatcher of a layer whose experts are all here."""

from __future__ import annotations

import torch
from torch import Tensor

from grainline import kernels
from grainline.models.moe.seams import Dispatched, Routing


class LocalDispatcher:
    """Sorts rows by expert and sums the results back: no communication."""

    def dispatch(self, x_TD: Tensor, routing: Routing) -> Dispatched:
        """See `seams.Dispatcher`."""
        order_N = routing.expert_N.argsort(stable=True)
        unit_N, score_N, counts_E = routing.unit_N[order_N], routing.score_N[order_N], routing.counts_E
        quantum = kernels.row_quantum(len(order_N), len(counts_E), x_TD.dtype, x_TD.device.type)
        if quantum > 1:
            unit_N, score_N, counts_E = pad_routing(unit_N, score_N, counts_E, quantum)
        return Dispatched(x_TD.index_select(0, unit_N), counts_E, unit_N, score_N, x_TD.shape[0])

    def combine(self, rows_ND: Tensor, sent: Dispatched) -> Tensor:
        """See `seams.Dispatcher`."""
        return kernels.combine_rows(rows_ND, sent.score_N, sent.unit_N, sent.units)


def pad_routing(unit_N: Tensor, score_N: Tensor, counts_E: Tensor, quantum: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row counts rounded up to multiples of `quantum` by extra entries of unit 0 with score 0; the output is unchanged.

    Lists sorted by expert. Ling 2.0's padding routing map (arXiv 2510.22115, section on FP8 training).
    """
    padded_E = (counts_E + quantum - 1) // quantum * quantum
    shift_E = (padded_E - counts_E).cumsum(0) - (padded_E - counts_E)
    place_N = torch.arange(len(unit_N), device=unit_N.device) + shift_E.repeat_interleave(counts_E)
    size = int(padded_E.sum())
    unit_P = unit_N.new_zeros(size).index_copy_(0, place_N, unit_N)
    score_P = score_N.new_zeros(size).index_copy(0, place_N, score_N)
    return unit_P, score_P, padded_E
