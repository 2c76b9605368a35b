"""What a packed folder holds: its index, and the held-out documents as text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from grainline.data.readers import TextDocument
from grainline.data.shards import Split, token_dtype
from grainline.documents import GrainlineError

SCHEMA_VERSION = 1
INDEX, VALID_TEXT = "index.json", "valid.jsonl"


@dataclass
class Count:
    """What a part has in a split: `bytes` are of UTF-8 text, `tokens` include a separator for each document."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Packed:
    """A packed folder's index.

    `counts` are by split and part, `shards` (tokens in each file) by split; `tokenizer` is its fingerprint; `skipped`
    counts files of other kinds by suffix; `reused`: the folder was there already.
    """

    folder: Path
    fingerprint: str
    tokenizer: str
    vocab_size: int
    separator_id: int
    counts: Mapping[Split, Mapping[str, Count]]
    shards: Mapping[Split, Sequence[int]]
    skipped: Mapping[str, int] = field(default_factory=dict)
    reused: bool = False

    @property
    def dtype(self) -> np.dtype:
        """Of the ids in the shards."""
        return token_dtype(self.vocab_size)

    def tokens(self, split: Split) -> int:
        """Ids in the split's shards, separators included."""
        return sum(self.shards[split])

    def bytes(self, split: Split) -> int:
        """Of UTF-8 text that the split was made from."""
        return sum(count.bytes for count in self.counts[split].values())

    def documents(self, split: Split) -> int:
        """How many the split has."""
        return sum(count.documents for count in self.counts[split].values())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Raises GrainlineError if there is no packed text there, or of another version."""
        folder = Path(folder)
        path = folder / INDEX
        try:
            tables = json.loads(path.read_text(encoding="utf-8"))
            if tables["schema_version"] != SCHEMA_VERSION:
                raise GrainlineError(f"{path}: schema_version {tables['schema_version']}, not {SCHEMA_VERSION}.")
            counts = {s: {part: Count(**c) for part, c in of.items()} for s, of in tables["counts"].items()}
            names = ("fingerprint", "tokenizer", "vocab_size", "separator_id", "shards", "skipped")
            return cls(folder=folder, counts=counts, reused=True, **{name: tables[name] for name in names})
        except FileNotFoundError:
            raise GrainlineError(f"{folder}: holds no packed text (no {INDEX}).") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GrainlineError(
                f"{path}: damaged, or isn't the index of packed text ({type(error).__name__}: {error}). "
                f"Delete {folder} and pack the text again."
            ) from None

    def save(self, folder: Path) -> None:
        """Write the index to `folder`, where the shards are."""
        tables: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "dtype": self.dtype.str, **asdict(self)}
        del tables["folder"], tables["reused"]
        with (folder / INDEX).open("w", encoding="utf-8") as file:
            file.write(json.dumps(tables, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def validation_documents(folder: str | Path) -> Iterator[TextDocument]:
    """The held-out documents of a packed folder, in the order of packing."""
    with (Path(folder) / VALID_TEXT).open(encoding="utf-8") as lines:
        for line in lines:
            yield TextDocument(**json.loads(line))
