"""Which documents are held out: a function of their text alone, so that no copy of one can be on both sides."""

from __future__ import annotations

import hashlib


def position(text: str) -> float:
    """A uniform number in [0, 1) from the text's hash (BLAKE2b): the same text, the same number, wherever it stands."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a document is for validation, if `fraction` of all documents is."""
    return position(text) < fraction
