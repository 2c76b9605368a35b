"""What a head is shown of a text: one state for all of it, and the states in order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grainline.documents import GrainlineError


@dataclass(frozen=True)
class Views:
    """Of a batch. An encoder without states in order, or a caller without lengths, leaves these out."""

    pooled_BD: Tensor
    sequence_BSD: Tensor | None = None
    length_B: Tensor | None = None  # int64: what is beyond is padding

    @property
    def ordered(self) -> tuple[Tensor, Tensor]:
        """(states, lengths); GrainlineError where an expert needs them and they aren't there or are empty."""
        if self.sequence_BSD is None:
            raise GrainlineError(
                "An expert reads states in order, and this encoder gives only one for the whole text: "
                "leave out 'gru' and 'ffn-mean' from head.experts, or take another encoder."
            )
        if self.length_B is None:
            raise GrainlineError(
                "An expert reads states in order: say how long each text is, or it would read padding."
            )
        empty = (self.length_B < 1).nonzero().flatten().tolist()
        if empty:
            raise GrainlineError(f"Text {empty[0]} of the batch has no tokens: leave it out.")
        return self.sequence_BSD, self.length_B


def mean_of_valid(states_BSD: Tensor, length_B: Tensor) -> Tensor:
    """The mean over each text's own positions → [B, D]."""
    places_S = torch.arange(states_BSD.shape[1], device=states_BSD.device)
    valid_BS1 = (places_S < length_B.unsqueeze(1)).unsqueeze(-1)
    return (states_BSD * valid_BS1).sum(1) / length_B.unsqueeze(1).to(states_BSD.dtype)


def last_of_valid(states_BSD: Tensor, length_B: Tensor) -> Tensor:
    """The state of each text's last token → [B, D]."""
    rows_B = torch.arange(len(length_B), device=states_BSD.device)
    return states_BSD[rows_B, length_B - 1]
