"""Which sequences a step, a rank and a micro-batch see: a function of the step alone, so a resume needs no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grainline.documents import GrainlineError, Plan, Recipe
from grainline.parallel.ranks import Ranks

if TYPE_CHECKING:
    from grainline.data.dataset import TokenDataset


def is_sharded(plan: Plan, ranks: Ranks) -> bool:
    """Whether ranks hold shares of the model, and so must run equally many passes."""
    return plan.layout.shard == "full" and ranks.world > 1


def check_shares(recipe: Recipe, plan: Plan, ranks: Ranks) -> None:
    """Raise GrainlineError if the ranks can't share a batch."""
    sequences = recipe.batch_sequences
    if plan.pipeline is not None:
        return  # which has micro-batches to fill, and says so itself
    if sequences < ranks.world:
        raise GrainlineError(
            f"A batch of {sequences} sequences can't be shared by {ranks.world} ranks. Raise training.batch_tokens to "
            f"{ranks.world * recipe.data.sequence_length} or more, or start fewer processes."
        )
    if is_sharded(plan, ranks) and sequences % ranks.world:
        raise GrainlineError(
            f"layout.shard = 'full' needs batches that {ranks.world} ranks share evenly; training.batch_tokens "
            f"{recipe.training.batch_tokens} makes {sequences} sequences. Take a multiple of "
            f"{ranks.world * recipe.data.sequence_length}."
        )


def share_of_step(step: int, batch_sequences: int, mine: range) -> range:
    """Global indices of the sequences number `mine` of step `step` (from 1)."""
    first = (step - 1) * batch_sequences
    return range(first + mine.start, first + mine.stop)


def micro_batches(sequences: range, size: int) -> Iterator[range]:
    """Contiguous parts of at most `size`, as equal as can be."""
    return split(sequences, -(-len(sequences) // size))


def split(sequences: range, parts: int) -> Iterator[range]:
    """So many contiguous parts, as equal as can be; empty ones where there are too few."""
    for i in range(parts):
        start, stop = i * len(sequences) // parts, (i + 1) * len(sequences) // parts
        yield sequences[start:stop]


def sequences_of(dataset: TokenDataset, indices: range, device: torch.device) -> Tensor:
    """int64 [B, S + 1] on `device`."""
    return torch.from_numpy(dataset.sequences(indices.start, len(indices))).to(device)
