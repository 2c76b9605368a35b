"""Groups of experts of one kind, their weights stacked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grainline import kernels
from grainline.kernels import WeightQueue


class SwigluExperts(nn.Module):
    """E SwiGLU experts; w13 stacks each one's gate and up, so that a leading index is always a whole matrix.

    Of one layer, or of several that share them (ReXMoE): then those of each layer lie together, in the layers' order.
    """

    queue: WeightQueue | None = None

    def __init__(self, experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.w13_E2FD = nn.Parameter(torch.empty(experts, 2, hidden, width))
        self.w2_EDF = nn.Parameter(torch.empty(experts, width, hidden))

    def forward(self, rows_ND: Tensor, counts_E: Tensor) -> Tensor:
        """See `seams.ExpertGroup`."""
        return kernels.swiglu_experts(rows_ND, self.w13_E2FD, self.w2_EDF, counts_E, self.queue)

    def mixture(self, x_TD: Tensor, score_N: Tensor, unit_N: Tensor, counts_E: Tensor) -> Tensor:
        """See `seams.ExpertGroup`."""
        return kernels.expert_mixture(x_TD, self.w13_E2FD, self.w2_EDF, score_N, unit_N, counts_E, self.queue)
