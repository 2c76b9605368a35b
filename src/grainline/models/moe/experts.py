"""Groups of experts of one kind, their weights stacked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grainline import kernels
from grainline.documents import ModelConfig
from grainline.kernels import WeightQueue


class SwigluExperts(nn.Module):
    """E SwiGLU experts; w13 stacks each one's gate and up, so that a leading index is always a whole matrix."""

    queue: WeightQueue | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.moe is not None
        experts, hidden, size = config.moe.experts, config.moe.expert_hidden, config.hidden_size
        self.w13_E2FD = nn.Parameter(torch.empty(experts, 2, hidden, size))
        self.w2_EDF = nn.Parameter(torch.empty(experts, size, hidden))

    def forward(self, rows_ND: Tensor, counts_E: Tensor) -> Tensor:
        """See `seams.ExpertGroup`."""
        return kernels.swiglu_experts(rows_ND, self.w13_E2FD, self.w2_EDF, counts_E, self.queue)
