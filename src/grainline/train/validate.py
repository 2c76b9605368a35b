"""Held-out loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from grainline.parallel.ranks import Ranks
from grainline.train.batches import sequences_of, split

if TYPE_CHECKING:
    from grainline.data.dataset import TokenDataset
    from grainline.train.objective import Objective


@dataclass(frozen=True)
class Validation:
    """Cross-entropy in nats per token, and the same per byte of text in bits."""

    loss: float
    bits_per_byte: float


def bits_per_byte(loss: float, dataset: TokenDataset) -> float:
    """Nats per token → bits per byte, at the dataset's mean bytes per token."""
    return loss / math.log(2) * dataset.tokens / dataset.bytes


@torch.no_grad()
def validate(
    objective: Objective, dataset: TokenDataset, max_sequences: int, micro_batch_sequences: int, ranks: Ranks
) -> Validation:
    """Score the first sequences of `dataset`, shared out over ranks."""
    count = min(len(dataset), max_sequences)
    largest_share = -(-count // ranks.world)
    sums = torch.zeros(2, dtype=torch.float64)
    for part in split(ranks.share(count), -(-largest_share // micro_batch_sequences)):
        # Sharded ranks must run equally many passes: one that has nothing left runs one for nothing.
        _, of_part = objective(sequences_of(dataset, part or range(1), ranks.device))
        if part:
            sums += torch.tensor([of_part.cross_entropy.item(), of_part.tokens], dtype=torch.float64)
    ranks.sum_(sums)
    loss = (sums[0] / sums[1]).item()
    return Validation(loss, bits_per_byte(loss, dataset))
