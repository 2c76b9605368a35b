"""Counts per expert rounded to tiles (SonicMoE, arXiv 2512.14080, section 5) on the device: no wait for it."""

from __future__ import annotations

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.documents.moe import Rounding
from grainline.kernels.rounding import on_device
from grainline.kernels.stream.triton import why_not
from grainline.kernels.triton.launch import on


def round_counts(
    counts_E: Tensor, mass_TE: Tensor, tile: int, rounding: Rounding, draw_E: Tensor | None = None
) -> Tensor:
    """See `kernels.round_counts`. "balanced" goes from expert to expert, in one program, and raises GrainlineError
    where Triton can't run; the others are PyTorch's ops.
    """
    if rounding == "balanced":
        return _balanced(counts_E.to(torch.int64), tile, len(mass_TE))
    return on_device(counts_E, mass_TE, tile, rounding, draw_E)


def _balanced(counts_E: Tensor, tile: int, tokens: int) -> Tensor:
    from grainline.kernels.triton import router_kernel

    reason = why_not(str(counts_E.device))
    if reason:
        raise GrainlineError(f"round_counts, balanced, by Triton: {reason}.")
    out_E = torch.empty_like(counts_E)
    with on(counts_E):
        router_kernel.round_balanced[(1,)](counts_E, out_E, len(counts_E), tile, tokens)
    return out_E
