"""From a recipe's text to a tokenizer and packed sequences, made once and used by every later run on the same text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grainline.data import builtin
from grainline.data.dataset import TokenDataset
from grainline.data.files import Found, find_text
from grainline.data.formats import text_bytes
from grainline.data.pack import pack
from grainline.data.packed import Packed
from grainline.data.tokenizer import Tokenizer, train_tokenizer
from grainline.documents import GrainlineError, Recipe, write_atomically
from grainline.parallel import Ranks

TOKENIZER, PACKED, MADE_FROM = "tokenizer", "packed", "made_from.json"
BYTES_PER_TOKEN = 3.0
"""Of text, taken for an estimate before anything is packed; small vocabularies on many languages come near it."""


@dataclass(frozen=True)
class Corpus:
    """What a run learns from and is judged by."""

    tokenizer: Tokenizer
    train: TokenDataset
    validation: TokenDataset


def prepare(
    recipe: Recipe, folder: Path, tokenizer: Tokenizer | None, ranks: Ranks, say: Callable[[str], None]
) -> Corpus:
    """Read, tokenise and pack the recipe's text into `folder`, unless that was done before from the same text.

    `tokenizer` is the pretrained model's, if there is one; the recipe's own goes first, and without either one is
    trained on the documents that aren't held out. Raises GrainlineError for text that can't be read or is too little.
    """
    ranks.on_first(lambda: _make(recipe, folder, tokenizer, say))
    return _open(recipe, folder, tokenizer)


def _open(recipe: Recipe, folder: Path, tokenizer: Tokenizer | None) -> Corpus:
    data = recipe.data
    open_split = TokenDataset.open
    return Corpus(
        _chosen(recipe, tokenizer) or Tokenizer.load(folder / TOKENIZER),
        open_split(folder / PACKED, "train", data.sequence_length, recipe.seed, batch_sequences=recipe.batch_sequences),
        open_split(folder / PACKED, "valid", data.sequence_length),
    )


def _make(recipe: Recipe, folder: Path, tokenizer: Tokenizer | None, say: Callable[[str], None]) -> None:
    data = recipe.data
    found = find_text(data.text)
    packed = pack(
        found,
        _chosen(recipe, tokenizer) or _trained(recipe, found, folder / TOKENIZER, say),
        folder / PACKED,
        validation_fraction=data.validation_fraction,
        max_bytes=data.max_bytes,
        progress=lambda bytes_, tokens: say(f"Packed {bytes_ / 1e6:.1f} MB of text into {tokens:,} tokens."),
    )
    if packed.skipped:
        kinds = ", ".join(f"{count} × {suffix}" for suffix, count in packed.skipped.items())
        say(f"Files that aren't read were skipped: {kinds}.")
    _open(recipe, folder, tokenizer)  # all ranks will: what is wrong with it is met, and told, by the first


def _chosen(recipe: Recipe, pretrained: Tokenizer | None) -> Tokenizer | None:
    return Tokenizer.load(recipe.data.tokenizer) if recipe.data.tokenizer is not None else pretrained


def _trained(recipe: Recipe, found: Found, folder: Path, say: Callable[[str], None]) -> Tokenizer:
    data = recipe.data
    made_from = {
        "text": found.fingerprint,
        "max_bytes": data.max_bytes,
        "vocab_size": data.vocab_size,
        "validation_fraction": data.validation_fraction,
    }
    if _read(folder / MADE_FROM) == made_from:
        try:
            return Tokenizer.load(folder)
        except GrainlineError as error:
            say(f"{error} The same is trained again.")
    say(f"Training a tokenizer of {data.vocab_size:,} tokens.")
    tokenizer = train_tokenizer(
        found, data.vocab_size, validation_fraction=data.validation_fraction, max_bytes=data.max_bytes
    )
    tokenizer.save(folder)
    write_atomically(folder / MADE_FROM, json.dumps(made_from))
    return tokenizer


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def foreseen_bytes(recipe: Recipe, folder: Path) -> int:
    """Size of the packed data: what is there, or an estimate from the size of the text."""
    data = recipe.data
    try:
        packed = Packed.load(folder / PACKED)
        return packed.dtype.itemsize * (packed.tokens("train") + packed.tokens("valid"))
    except GrainlineError:
        found = find_text(data.text)
        size = sum(text_bytes(path) for path in found.files) + (sum(builtin.parts().values()) if found.builtin else 0)
        size = min(size, data.max_bytes or size)
        return round(size / BYTES_PER_TOKEN * (2 if data.vocab_size <= 1 << 16 else 4))
