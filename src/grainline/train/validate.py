"""Held-out loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grainline.parallel.ranks import Ranks

if TYPE_CHECKING:
    from grainline.data.dataset import TokenDataset
    from grainline.train.work import Work


@dataclass(frozen=True)
class Validation:
    """Cross-entropy in nats per token, and the same per byte of text in bits."""

    loss: float
    bits_per_byte: float


def bits_per_byte(loss: float, dataset: TokenDataset) -> float:
    """Nats per token → bits per byte, at the dataset's mean bytes per token."""
    return loss / math.log(2) * dataset.tokens / dataset.bytes


def validate(work: Work, dataset: TokenDataset, max_sequences: int, ranks: Ranks) -> Validation:
    """Score the first sequences of `dataset`, as the ranks share their work."""
    sums = ranks.sum_(work.score(dataset, min(len(dataset), max_sequences)))
    loss = (sums[0] / sums[1]).item()
    return Validation(loss, bits_per_byte(loss, dataset))
