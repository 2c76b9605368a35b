"""An expert layer on `F.grouped_mm`: no host round trip for the counts, so the backend of GPUs.

It keeps what `sonic` keeps, by the same backward. All experts are computed at once, and each token gathers its rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from grainline.kernels import sonic
from grainline.kernels.mixture import Gradients, Halves, Later, Wants

MULTIPLE = 8
"""Of D and F: grouped_mm wants rows of whole 16 bytes."""
EPILOGUE_ROWS = 1 << 14
"""That are made float32 at a time."""


def forward(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `mixture.Forward`. Dtypes and sizes that grouped_mm has no kernel for go to `sonic`."""
    if not _fits(x_TD, w2_EDF):
        return sonic.forward(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, keep)
    ends_E = counts_E.cumsum(0).to(torch.int32)
    w13_EGD, w2_EDF = (_plain(weight, x_TD.dtype) for weight in (w13_E2FD.flatten(1, 2), w2_EDF))
    hidden_NG = F.grouped_mm(_gather(x_TD, unit_N), w13_EGD.mT, offs=ends_E)
    gate_NF, up_NF = hidden_NG.chunk(2, dim=-1)
    act_NF = F.silu(gate_NF).mul_(up_NF)
    if score_N is not None:
        act_NF.mul_(score_N.unsqueeze(1).to(act_NF.dtype))
    out_TD = _sum(F.grouped_mm(act_NF, w2_EDF.mT, offs=ends_E), unit_N, len(x_TD))
    return out_TD, hidden_NG if keep else None


def backward(
    d_out_TD: Tensor,
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
    hidden_NG: Tensor,
    wants: Wants,
    later: Later | None = None,
    spends: bool = False,
) -> Gradients:
    """See `mixture.Backward`."""
    if not _fits(x_TD, w2_EDF):
        return sonic.backward(d_out_TD, x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, hidden_NG, wants, later)
    d_out_TD, ends_E = d_out_TD.contiguous(), counts_E.cumsum(0).to(torch.int32)
    d_out_ND = _gather(d_out_TD, unit_N)
    act_NF = F.grouped_mm(d_out_ND, _plain(w2_EDF, x_TD.dtype), offs=ends_E)
    d_hidden_NG = torch.empty_like(hidden_NG)
    d_score_N = torch.empty_like(score_N) if wants.score and score_N is not None else None
    for start in range(0, len(act_NF), EPILOGUE_ROWS):
        rows = slice(start, start + EPILOGUE_ROWS)
        score_n, d_score_n = (None if x is None else x[rows] for x in (score_N, d_score_N))
        sonic.epilogue(act_NF[rows], hidden_NG[rows], score_n, d_hidden_NG[rows], d_score_n)

    def outer(left_NX: Tensor, right_NY: Tensor, weight: Tensor) -> Tensor:
        return F.grouped_mm(left_NX.mT, right_NY, offs=ends_E).view(weight.shape).to(weight.dtype)

    now = later is None
    d_w2 = outer(d_out_ND, act_NF, w2_EDF) if wants.w2 and now else None
    del d_out_ND
    d_w13 = outer(d_hidden_NG, _gather(x_TD, unit_N), w13_E2FD) if wants.w13 and now else None
    d_x_TD = None
    if wants.x:
        d_row_ND = F.grouped_mm(d_hidden_NG, _plain(w13_E2FD.flatten(1, 2), x_TD.dtype), offs=ends_E)
        d_x_TD = _sum(d_row_ND, unit_N, len(x_TD))
    if later is not None:
        later("w2", lambda place: place.add(outer(_gather(d_out_TD, unit_N), act_NF, w2_EDF)))
        later("w13", lambda place: place.add(outer(d_hidden_NG, _gather(x_TD, unit_N), w13_E2FD)))
    return Gradients(d_x_TD, d_w13, d_w2, d_score_N)


def _fits(x_TD: Tensor, w2_EDF: Tensor) -> bool:
    return x_TD.dtype == torch.bfloat16 and not any(size % MULTIPLE for size in w2_EDF.shape[1:])


def _gather(x_TD: Tensor, unit_N: Tensor | None) -> Tensor:
    return _plain(x_TD, x_TD.dtype) if unit_N is None else x_TD.index_select(0, unit_N)


def _plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    """In this dtype, contiguous, and from a multiple of 16 bytes on, as grouped_mm wants it; nearly always itself."""
    x = x.to(dtype).contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def _sum(row_ND: Tensor, unit_N: Tensor | None, units: int) -> Tensor:
    """Each unit gathers its rows and adds them up: no atomics, so the same sum every time."""
    if unit_N is None:
        return row_ND
    order_N = unit_N.argsort(stable=True)
    starts_T = torch.searchsorted(unit_N[order_N], torch.arange(units, device=unit_N.device))
    return F.embedding_bag(order_N, row_ND, starts_T, mode="sum")


HALVES = Halves(forward, backward)
