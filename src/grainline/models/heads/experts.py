"""Kinds of experts for whole texts. Each sees only its own view (Hecto, arXiv 2506.22919)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from grainline.documents.classification import ExpertKind
from grainline.models.heads.views import mean_of_valid

View = Literal["pooled", "sequence"]


class HeadExpert(nn.Module):
    """Rows of its view → answers [B, C]. Lengths come with sequences alone."""

    view: ClassVar[View]

    def forward(self, rows: Tensor, length_B: Tensor | None = None) -> Tensor:
        """pooled: [B, P]; sequence: [B, S, P] with `length_B`."""
        raise NotImplementedError


class FfnExpert(HeadExpert):
    """P → H → tanh → C."""

    view: ClassVar[View] = "pooled"

    def __init__(self, proj: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.Linear(proj, hidden)
        self.down = nn.Linear(hidden, outputs)

    def forward(self, rows: Tensor, length_B: Tensor | None = None) -> Tensor:
        """[B, P] → [B, C]."""
        out: Tensor = self.down(self.up(rows).tanh())
        return out

    def flops(self, length: float) -> float:
        """Of one text, forward: the same whatever its length."""
        return 2.0 * (self.up.weight.numel() + self.down.weight.numel())


class MeanFfnExpert(FfnExpert):
    """The same on the mean of all states: sees what a GRU does, but not their order."""

    view: ClassVar[View] = "sequence"

    def forward(self, rows: Tensor, length_B: Tensor | None = None) -> Tensor:
        """[B, S, P] → [B, C]."""
        assert length_B is not None
        return super().forward(mean_of_valid(rows, length_B))


class GruExpert(HeadExpert):
    """One layer, one direction; the state after a text's last token → C. Padding is never stepped over."""

    view: ClassVar[View] = "sequence"

    def __init__(self, proj: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.gru = nn.GRU(proj, hidden, batch_first=True)
        self.down = nn.Linear(hidden, outputs)

    def forward(self, rows: Tensor, length_B: Tensor | None = None) -> Tensor:
        """[B, S, P] → [B, C]."""
        assert length_B is not None
        packed = pack_padded_sequence(rows, length_B.cpu(), batch_first=True, enforce_sorted=False)
        out: Tensor = self.down(self.gru(packed)[1][0])
        return out

    def flops(self, length: float) -> float:
        """Of one text of `length` tokens, forward."""
        per_step = self.gru.get_parameter("weight_ih_l0").numel() + self.gru.get_parameter("weight_hh_l0").numel()
        return 2.0 * (length * per_step + self.down.weight.numel())


EXPERTS: dict[ExpertKind, Callable[[int, int, int], FfnExpert | GruExpert]] = {
    "ffn": FfnExpert,
    "gru": GruExpert,
    "ffn-mean": MeanFfnExpert,
}
"""Kind → what makes one from the widths of its view, of its hidden state and of its answer."""


def answer(expert: HeadExpert, view: Tensor, length_B: Tensor | None, rows_b: Tensor | None = None) -> Tensor:
    """An expert's answers to all rows of its view, or to some: [b, C]."""
    if rows_b is not None:
        view = view[rows_b]
        length_B = None if length_B is None else length_B[rows_b]
    if expert.view == "sequence" and length_B is not None:  # less to copy where these rows are short
        view = view[:, : int(torch.max(length_B))]
    out: Tensor = expert(view, length_B)
    return out
