"""Packed tokens as training sequences: any of them at once, by its number, in an order that only the seed decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from grainline.data.packed import Packed
from grainline.data.shards import Split, TokenStream
from grainline.data.shuffle import draw, key_of, permuted
from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer


class TokenDataset:
    """One split of a packed folder, cut into sequences of S + 1 tokens: S that are seen and S that are predicted.

    Sequence number i belongs to epoch i // len. In an epoch the ring of all tokens is cut into len = tokens // S
    sequences from a random place on, and they come in a random order; both are new in each epoch and depend on the seed
    alone. So any number of processes can take any sequences, and a resumed run goes on with the next number.
    """

    def __init__(self, packed: Packed, split: Split, sequence_length: int, seed: int = 0) -> None:
        self.packed, self.split, self.sequence_length, self.seed = packed, split, sequence_length, seed
        self.tokens = packed.tokens(split)
        self.bytes = packed.bytes(split)
        self.separator_id = packed.separator_id
        self._stream = TokenStream(packed.folder, split, packed.dtype, packed.shards[split])

    @classmethod
    def open(
        cls, folder: str | Path, split: Split, sequence_length: int, seed: int = 0, *, batch_sequences: int = 1
    ) -> Self:
        """Raises GrainlineError if the split has fewer than `batch_sequences` sequences, or the folder isn't whole."""
        dataset = cls(Packed.load(folder), split, sequence_length, seed)
        needed = batch_sequences * sequence_length + 1
        if dataset.tokens < needed:
            batch = f"a batch of {batch_sequences} × {sequence_length} tokens" if batch_sequences > 1 else "a sequence"
            mend = "lower data.sequence_length" + (" or training.batch_tokens" if batch_sequences > 1 else "")
            more = "give more text" if split == "train" else "give more text or raise data.validation_fraction"
            raise GrainlineError(
                f"{folder}: the {split} split has {dataset.tokens} tokens, {batch} needs {needed}: {more}, or {mend}."
            )
        return dataset

    def __len__(self) -> int:
        """Sequences in an epoch."""
        return self.tokens // self.sequence_length

    def sequences(self, first: int, count: int) -> np.ndarray:
        """int64 [count, S + 1]: sequences number `first` … `first` + `count` − 1, over all epochs."""
        ids = np.empty((count, self.sequence_length + 1), np.int64)
        for row, start in zip(ids, self.starts(first, count), strict=True):
            self._stream.read(int(start), len(row), out=row)
        return ids

    def starts(self, first: int, count: int) -> np.ndarray:
        """int64 [count]: where in the ring of tokens each sequence begins."""
        epochs, indices = np.divmod(np.arange(first, first + count, dtype=np.int64), len(self))
        starts = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            key = key_of(self.seed, int(epoch))
            shuffled = permuted(indices[now], len(self), key)
            starts[now] = (draw(self.tokens, key_of(key, 1)) + shuffled * self.sequence_length) % self.tokens
        return starts

    def text(self, first: int, count: int, tokenizer: Tokenizer) -> Iterator[bytes]:
        """The text that each sequence's S predicted tokens stand for, without separators.

        What a run of `count` sequences has learnt from, to the byte, if `count` is at most an epoch: for baselines that
        are given the same. Sequences may begin or end inside a character.
        """
        for start in self.starts(first, count):
            ids = self._stream.read(int(start) + 1, self.sequence_length)
            yield b"".join(tokenizer.token_bytes(id) for id in ids[ids != self.separator_id].tolist())
