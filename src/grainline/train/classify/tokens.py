"""Texts as padded batches of token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grainline.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Tokens:
    """Of some texts, in order: ids, and what is to be said of each."""

    ids: tuple[tuple[int, ...], ...]
    target_N: Tensor  # float32; a label's place, or the number

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(ids [B, S], lengths [B], targets [B]); short texts are filled up with 0, which nobody looks at."""
        chosen = [self.ids[row] for row in rows]
        length_B = torch.tensor([len(ids) for ids in chosen])
        ids_BS = torch.zeros(len(chosen), max(map(len, chosen)), dtype=torch.long)
        for row, ids in enumerate(chosen):
            ids_BS[row, : len(ids)] = torch.tensor(ids)
        return ids_BS, length_B, self.target_N[torch.tensor(rows)]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All texts in order."""
        for first in range(0, len(self.ids), size):
            yield self.batch(range(first, min(first + size, len(self.ids))))


def tokenise(texts: Sequence[str], targets: Sequence[float], tokenizer: Tokenizer, max_tokens: int) -> Tokens:
    """Each text after the separator, at most `max_tokens` with it: so none is empty."""
    ids = [(tokenizer.separator_id, *ids[: max_tokens - 1]) for ids in tokenizer.encode_batch(texts)]
    return Tokens(tuple(ids), torch.tensor(targets, dtype=torch.float32))


def order_of(examples: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch, which depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(examples, generator=generator).tolist()
    return order
