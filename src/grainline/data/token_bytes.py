"""Which bytes each token of a tokenizer.json stands for, read from the way its decoder puts tokens together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from grainline.documents import GrainlineError

SPACE = "▁"  # sentencepiece's for a space


def bytes_of_tokens(definition: str, vocab_size: int) -> list[bytes]:
    """By id, for byte-level BPE (GPT-2's alphabet) and sentencepiece's (▁ for a space, <0xE2> for a byte).

    Added tokens are their names. Ids without a token are empty. Raises GrainlineError for other decoders, such as
    WordPiece, whose tokens have no bytes of their own.
    """
    tables = json.loads(definition)
    kinds = {decoder["type"] for decoder in _decoders(tables.get("decoder"))}
    to_bytes: Callable[[str], bytes]
    if "ByteLevel" in kinds:
        alphabet = byte_alphabet()

        def to_bytes(token: str) -> bytes:
            return bytes(alphabet[character] for character in token)

    elif kinds & {"ByteFallback", "Metaspace", "Replace"}:

        def to_bytes(token: str) -> bytes:
            byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token) if "ByteFallback" in kinds else None
            return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode("utf-8")

    else:
        raise GrainlineError(
            f"The tokenizer's decoder ({', '.join(sorted(kinds))}) is neither byte-level nor sentencepiece's, "
            "so that its tokens have no bytes of their own."
        )
    found = [b""] * vocab_size
    added = {token["content"]: token["id"] for token in tables.get("added_tokens", ())}
    for token, id in _vocabulary(tables["model"]):
        if token not in added:
            found[id] = to_bytes(token)
    for token, id in added.items():
        found[id] = token.encode("utf-8")
    return found


def byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable Latin-1 bytes are themselves, the others stand in order from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _vocabulary(model: dict[str, Any]) -> Iterator[tuple[str, int]]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        yield from vocabulary.items()
    else:  # Unigram: [token, log-probability] in the order of ids
        yield from ((token, id) for id, (token, _) in enumerate(vocabulary))


def _decoders(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is not None and decoder["type"] == "Sequence":
        for inner in decoder["decoders"]:
            yield from _decoders(inner)
    elif decoder is not None:
        yield decoder
