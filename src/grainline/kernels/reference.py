"""Every op in plain PyTorch, with PyTorch's own gradients: the truth that the other backends are tested against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu(x_ND: Tensor, w13_2FD: Tensor, w2_DF: Tensor) -> Tensor:
    """w2 · (silu(w1 · x) ⊙ (w3 · x)) for every row; w13 holds w1 (gate) and w3 (up). Shazeer 2020."""
    gate_NF, up_NF = F.linear(x_ND, w13_2FD.flatten(0, 1)).chunk(2, dim=-1)
    return F.linear(F.silu(gate_NF) * up_NF, w2_DF)


def swiglu_experts(rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """SwiGLU of each row by its expert: rows are sorted by expert, `counts_E` of them for each."""
    pieces = rows_ND.split(counts_E.tolist())
    return torch.cat([swiglu(x, w13, w2) for x, w13, w2 in zip(pieces, w13_E2FD, w2_EDF, strict=True)])


def combine_rows(rows_ND: Tensor, score_N: Tensor, unit_N: Tensor, units: int) -> Tensor:
    """y[u] = Σ score · row over the rows that belong to unit u → [units, D]."""
    out_TD = rows_ND.new_zeros(units, rows_ND.shape[-1])
    return out_TD.index_add(0, unit_N, rows_ND * score_N.unsqueeze(-1).to(rows_ND.dtype))


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, label_N: Tensor) -> Tensor:
    """Σ over rows of −log softmax(x · Wᵀ)[label], in nats; rows with label −100 count nothing."""
    return F.cross_entropy(F.linear(x_ND, weight_VD).float(), label_N, reduction="sum", ignore_index=-100)
