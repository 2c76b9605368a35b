"""Counts per expert rounded to tiles (SonicMoE, arXiv 2512.14080, section 5) on the device: no wait for it."""

from __future__ import annotations

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.documents.moe import Rounding
from grainline.kernels.stream.triton import why_not
from grainline.kernels.triton.launch import on


def round_counts(
    counts_E: Tensor, mass_TE: Tensor, tile: int, rounding: Rounding, draw_E: Tensor | None = None
) -> Tensor:
    """Counts as multiples of `tile`, int64; ties go down, and so does what would be more than there are tokens.

    mass_TE: scores of each expert's candidates in the order in which it takes them; draw_E: uniform in [0, 1), for
    "stochastic". Raises GrainlineError where the draws are missing, and for "balanced" where Triton can't run.
    """
    tokens, counts_E = len(mass_TE), counts_E.to(torch.int64)
    down_E = counts_E // tile * tile
    rest_E = counts_E - down_E
    if rounding == "balanced":
        return _balanced(counts_E, tile, tokens)
    if rounding == "nearest":
        is_up_E = 2 * rest_E > tile
    elif rounding == "stochastic":
        if draw_E is None:
            raise GrainlineError("round_counts: rounding 'stochastic' needs draw_E, a uniform number for each expert.")
        is_up_E = draw_E.double() * tile < rest_E
    elif rounding == "score":
        up_to_TE = torch.nn.functional.pad(mass_TE.nan_to_num().cumsum(0, dtype=torch.float64), (0, 0, 1, 0))
        places_3E = torch.stack((counts_E, down_E, down_E + tile)).clamp_max(tokens)
        here_E, below_E, above_E = up_to_TE.gather(0, places_3E)
        is_up_E = above_E - here_E < here_E - below_E
    else:
        is_up_E = torch.full_like(down_E, rounding == "up", dtype=torch.bool)
    return down_E + tile * (is_up_E & (rest_E > 0) & (down_E + tile <= tokens))


def _balanced(counts_E: Tensor, tile: int, tokens: int) -> Tensor:
    from grainline.kernels.triton import router_kernel

    reason = why_not(str(counts_E.device))
    if reason:
        raise GrainlineError(f"round_counts, balanced, by Triton: {reason}.")
    out_E = torch.empty_like(counts_E)
    with on(counts_E):
        router_kernel.round_balanced[(1,)](counts_E, out_E, len(counts_E), tile, tokens)
    return out_E
