"""An expert layer that keeps its input, one activation and its lists: SonicMoE (arXiv 2512.14080, section 3).

Kept from forward to backward are x, gate and up before the nonlinearity, scores and lists, and no product is computed
again: a score's gradient is ⟨dA, A⟩ over an expert's F, which equals ⟨dO, Y⟩ over D but needs neither Y nor dY. Rows
are gathered, computed and added up for a few experts at a time, so that no buffer has all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from grainline.kernels.elementwise import add_rows
from grainline.kernels.mixture import Gradients, Halves, Later, Wants
from grainline.kernels.sink import Place

BLOCK_VALUES = 1 << 21
"""Adjacent experts are taken together up to so many values of x: few beside all of them, enough for a step to pay."""


class Span(NamedTuple):
    """The rows of one expert, counted from its block's first. Its products may go on to `end`, a whole quantum."""

    expert: int
    start: int
    stop: int
    end: int


class Block(NamedTuple):
    """Adjacent experts that are computed together."""

    start: int
    height: int
    spans: list[Span]
    quantum: int  # of rows, that `end` of a span is rounded up to

    @property
    def rows(self) -> slice:
        """Among all."""
        return slice(self.start, self.start + self.height)


class Cut(NamedTuple):
    """All blocks; `room`: rows of a buffer that each of them finds place in."""

    blocks: list[Block]
    rows: int
    room: int


def forward(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `mixture.Forward`."""
    cut, hidden = _cut(counts_E, x_TD), w2_EDF.shape[2]
    out_TD = _sums_like(x_TD, unit_N)
    hidden_NG = x_TD.new_empty(cut.rows if keep else cut.room, 2 * hidden)
    row_RD, act_RF = x_TD.new_empty(cut.room, x_TD.shape[1]), x_TD.new_empty(cut.room, hidden)
    w13_EDG, w2_EFD = w13_E2FD.flatten(1, 2).mT, w2_EDF.mT
    for block in cut.blocks:
        hidden_RG = hidden_NG[block.start :] if keep else hidden_NG
        _multiply(block, _gather(x_TD, unit_N, block, row_RD), w13_EDG, hidden_RG)
        gate_nF, up_nF = hidden_RG[: block.height].chunk(2, dim=-1)
        act_nF = torch.mul(F.silu(gate_nF), up_nF, out=act_RF[: block.height])
        if score_N is not None:  # the same as that of the output, over fewer values
            act_nF.mul_(score_N[block.rows].unsqueeze(1).to(act_nF.dtype))
        _multiply_and_add(block, act_RF, w2_EFD, row_RD, out_TD, unit_N)
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
    d_out_TD = d_out_TD.contiguous()
    cut, hidden = _cut(counts_E, x_TD), w2_EDF.shape[2]
    d_x_TD = _sums_like(x_TD, unit_N) if wants.x else None
    d_score_N = torch.empty_like(score_N) if wants.score and score_N is not None else None
    now = later is None
    d_w13_E2FD = torch.zeros_like(w13_E2FD) if wants.w13 and now else None
    d_w2_EDF = torch.zeros_like(w2_EDF) if wants.w2 and now else None
    row_RD = x_TD.new_zeros(cut.room, x_TD.shape[1])
    space = cut.room if now else cut.rows + cut.room  # what is left for later is kept of all rows
    all_act_RF, all_d_hidden_RG = x_TD.new_empty(space, hidden), x_TD.new_empty(space, 2 * hidden)
    w13_EGD = w13_E2FD.flatten(1, 2)
    for block in cut.blocks:
        place = 0 if now else block.start
        act_RF, d_hidden_RG = all_act_RF[place:], all_d_hidden_RG[place:]
        d_out_RD = _gather(d_out_TD, unit_N, block, row_RD)
        _multiply(block, d_out_RD, w2_EDF, act_RF)
        act_nF, d_hidden_nG = act_RF[: block.height], d_hidden_RG[: block.height]
        epilogue(act_nF, hidden_NG[block.rows], _of(block, score_N), d_hidden_nG, _of(block, d_score_N))
        for buffer in (act_RF, d_hidden_RG):  # see `_outer`
            buffer[block.height : block.height + block.quantum].zero_()
        if d_w2_EDF is not None:
            _outer(block, d_out_RD, act_RF, d_w2_EDF, act_RF)
        if d_x_TD is not None:
            _multiply_and_add(block, d_hidden_RG, w13_EGD, row_RD, d_x_TD, unit_N)
        if d_w13_E2FD is not None:
            x_RD = _gather(x_TD, unit_N, block, row_RD)
            _outer(block, d_hidden_RG, x_RD, d_w13_E2FD.flatten(1, 2), d_hidden_RG)
    if later is not None:

        def make_w2(place: Place) -> None:
            row_RD, d_w2_EDF = x_TD.new_zeros(cut.room, x_TD.shape[1]), place.summed()
            for block in reversed(cut.blocks):
                act_RF = all_act_RF[block.start :]
                _outer(block, _gather(d_out_TD, unit_N, block, row_RD), act_RF, d_w2_EDF, act_RF, add=True)

        def make_w13(place: Place) -> None:
            row_RD, d_w13_EGD = x_TD.new_zeros(cut.room, x_TD.shape[1]), place.summed().flatten(1, 2)
            for block in reversed(cut.blocks):
                d_hidden_RG, x_RD = all_d_hidden_RG[block.start :], _gather(x_TD, unit_N, block, row_RD)
                _outer(block, d_hidden_RG, x_RD, d_w13_EGD, d_hidden_RG, add=True)

        later("w2", make_w2)
        later("w13", make_w13)
    return Gradients(d_x_TD, d_w13_E2FD, d_w2_EDF, d_score_N)


def epilogue(
    act_NF: Tensor, hidden_NG: Tensor, score_N: Tensor | None, d_hidden_NG: Tensor, d_score_N: Tensor | None
) -> None:
    """What follows dA = dO · W2, in float32 at least: of `act`, which holds it, makes score · A; fills the last two."""
    wide = torch.promote_types(act_NF.dtype, torch.float32)
    d_act_NF = act_NF.to(wide)
    gate_NF, up_NF = hidden_NG.to(wide).chunk(2, dim=-1)
    d_gate_NF, d_up_NF = d_hidden_NG.chunk(2, dim=-1)
    silu_NF = F.silu(gate_NF)
    a_NF = silu_NF * up_NF
    if d_score_N is not None:
        d_score_N.copy_((d_act_NF * a_NF).sum(1))
    if score_N is not None:
        score_N1 = score_N.unsqueeze(1).to(wide)
        d_act_NF.mul_(score_N1)
        a_NF.mul_(score_N1)
    d_up_NF.copy_(d_act_NF * silu_NF)
    d_gate_NF.copy_(torch.ops.aten.silu_backward(torch.mul(d_act_NF, up_NF, out=silu_NF), gate_NF))
    act_NF.copy_(a_NF)


def _multiply(block: Block, left_RX: Tensor, weight_EXY: Tensor, out_RY: Tensor) -> None:
    """out = left · weight for each expert's rows. In order: what goes beyond them is the next expert's to write."""
    first, last = block.spans[0].expert, block.spans[-1].expert
    weight_eXY = weight_EXY[first : last + 1].to(left_RX.dtype)
    for e, start, stop, end in block.spans:
        weight_XY, end = weight_eXY[e - first], min(end, len(left_RX))
        if end <= len(out_RY):
            torch.mm(left_RX[start:end], weight_XY, out=out_RY[start:end])
        else:
            out_RY[start:stop] = torch.mm(left_RX[start:end], weight_XY)[: stop - start]


def _multiply_and_add(
    block: Block, left_RX: Tensor, weight_EXD: Tensor, row_RD: Tensor, out_TD: Tensor, unit_N: Tensor | None
) -> None:
    """Rows of products, added up by unit."""
    if unit_N is None:
        _multiply(block, left_RX, weight_EXD, out_TD[block.start :])
        return
    _multiply(block, left_RX, weight_EXD, row_RD)
    add_rows(out_TD, unit_N[block.rows], row_RD[: block.height])


def _outer(block: Block, left_RX: Tensor, right_RY: Tensor, out_EXY: Tensor, spent: Tensor, add: bool = False) -> None:
    """out = leftᵀ · right over each expert's rows, or added to it.

    Rows beyond an expert's count nothing, because in `spent`, one of the two, they are 0: in reverse order, rows are
    cleared once they have been used.
    """
    for e, start, _, end in reversed(block.spans):
        end = min(end, len(left_RX), len(right_RY))
        left_Xn, right_nY = left_RX[start:end].t(), right_RY[start:end]
        if out_EXY.dtype != left_RX.dtype:
            out_EXY[e].add_(left_Xn @ right_nY) if add else out_EXY[e].copy_(left_Xn @ right_nY)
        elif add:
            out_EXY[e].addmm_(left_Xn, right_nY)
        else:
            torch.mm(left_Xn, right_nY, out=out_EXY[e])
        if block.quantum > 1:
            spent[start : start + block.quantum].zero_()


def _of(block: Block, x_N: Tensor | None) -> Tensor | None:
    return None if x_N is None else x_N[block.rows]


def _gather(x_TD: Tensor, unit_N: Tensor | None, block: Block, row_RD: Tensor) -> Tensor:
    """A block's rows, and perhaps more: into the buffer by unit, or where they are."""
    if unit_N is None:
        return x_TD[block.start :]
    torch.index_select(x_TD, 0, unit_N[block.rows], out=row_RD[: block.height])
    return row_RD


def _sums_like(x_TD: Tensor, unit_N: Tensor | None) -> Tensor:
    """To be added to by unit, or written."""
    return torch.empty_like(x_TD) if unit_N is None else torch.zeros_like(x_TD)


def _cut(counts_E: Tensor, x_TD: Tensor) -> Cut:
    counts = counts_E.tolist()
    rows = sum(counts)
    quantum = row_quantum(rows, len(counts), x_TD.dtype) if x_TD.device.type == "cpu" else 1
    blocks: list[Block] = []
    for e, count in enumerate(counts):
        if not count:
            continue
        if not blocks or (blocks[-1].height + count) * x_TD.shape[1] > BLOCK_VALUES:
            blocks.append(Block(blocks[-1].rows.stop if blocks else 0, 0, [], quantum))
        start, at, spans, _ = blocks[-1]
        spans.append(Span(e, at, at + count, at + -(-count // quantum) * quantum))
        blocks[-1] = Block(start, at + count, spans, quantum)
    return Cut(blocks, rows, max((block.height for block in blocks), default=0) + quantum)


def row_quantum(rows: int, experts: int, dtype: torch.dtype) -> int:
    """What the rows of an expert's product should be a multiple of.

    oneDNN compiles a bfloat16 product anew for each number of rows and remembers only so many: with free counts that
    takes longer than the products. The quantum keeps the shapes few and the waste under a quarter.
    """
    if dtype != torch.bfloat16:
        return 1
    return next((q for q in (32, 16, 8, 4) if rows >= 2 * q * experts), 1)


HALVES = Halves(forward, backward)
