"""One split's tokens as a stream over memory-mapped files of little-endian integers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np

from grainline.documents import GrainlineError

Split = Literal["train", "valid"]
SHARD_TOKENS = 1 << 28


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass
class ShardWriter:
    """Appends tokens to `split`-00000.bin, `split`-00001.bin, … of at most `shard_tokens` each."""

    folder: Path
    split: Split
    dtype: np.dtype
    shard_tokens: int = SHARD_TOKENS
    sizes: list[int] = field(default_factory=list)  # tokens by shard
    _file: IO[bytes] | None = None

    def write(self, ids: np.ndarray) -> None:
        """Append ids [n], over the end of one file into the next."""
        while len(ids):
            if self._file is None or self.sizes[-1] == self.shard_tokens:
                self.close()
                self._file = shard_path(self.folder, self.split, len(self.sizes)).open("wb")
                self.sizes.append(0)
            part, ids = np.split(ids, [self.shard_tokens - self.sizes[-1]])
            self._file.write(part.astype(self.dtype, copy=False).data)
            self.sizes[-1] += len(part)

    def close(self) -> None:
        """Sync the file that is being written, and end it."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def shard_path(folder: Path, split: Split, number: int) -> Path:
    """Where a split's shard `number` (from 0) is."""
    return folder / f"{split}-{number:05}.bin"


class TokenStream:
    """Reads a split's tokens as a ring: after the last comes the first, which begins a document."""

    def __init__(self, folder: Path, split: Split, dtype: np.dtype, sizes: Sequence[int]) -> None:
        """`sizes`: tokens by shard. Raises GrainlineError if a file isn't that long."""
        self._shards = []
        for number, size in enumerate(sizes):
            path = shard_path(folder, split, number)
            found = path.stat().st_size if path.is_file() else 0
            if found != size * dtype.itemsize:
                raise GrainlineError(
                    f"{path}: has {found} bytes, its index says {size * dtype.itemsize}. "
                    f"Delete {folder} and pack the text again."
                )
            self._shards.append(np.memmap(path, dtype=dtype, mode="r"))
        self._starts = np.cumsum([0, *sizes])
        self.tokens = int(self._starts[-1])

    def read(self, start: int, count: int, out: np.ndarray | None = None) -> np.ndarray:
        """int64 [count] tokens from `start`, each at its place modulo the stream's length."""
        out = np.empty(count, np.int64) if out is None else out
        done = 0
        while done < count:
            place = (start + done) % self.tokens
            shard = int(np.searchsorted(self._starts, place, side="right")) - 1
            inside = place - int(self._starts[shard])
            part = self._shards[shard][inside : inside + count - done]
            out[done : done + len(part)] = part
            done += len(part)
        return out
