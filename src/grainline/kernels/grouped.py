"""Expert ops on `F.grouped_mm`: no host round trip for the counts, so the backend of GPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from grainline.kernels import looped

MULTIPLE = 8
"""Of D and F: grouped_mm wants rows of whole 16 bytes."""


def swiglu_experts(rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """See `reference.swiglu_experts`. Dtypes and sizes that grouped_mm has no kernel for go to `looped`."""
    dtype = rows_ND.dtype
    if dtype != torch.bfloat16 or w2_EDF.shape[1] % MULTIPLE or w2_EDF.shape[2] % MULTIPLE:
        return looped.swiglu_experts(rows_ND, w13_E2FD, w2_EDF, counts_E)
    ends_E = counts_E.cumsum(0).to(torch.int32)
    w13_EDG, w2_EFD = w13_E2FD.flatten(1, 2).to(dtype).transpose(1, 2), w2_EDF.to(dtype).transpose(1, 2)
    gate_NF, up_NF = F.grouped_mm(rows_ND, w13_EDG, offs=ends_E).chunk(2, dim=-1)
    return F.grouped_mm(F.silu(gate_NF) * up_NF, w2_EFD, offs=ends_E)
