"""What a tokenizer's tokens are as text, as serving needs to know it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grainline.data.tokenizer import Tokenizer

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


class TokenText:
    """A tokenizer's tokens as bytes. Ids that it doesn't have (rows that pad the model's vocabulary) are empty."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.special = dict(tokenizer.special)
        self._tokenizer = tokenizer
        self._hidden = frozenset(self.special.values())

    def literal(self, id: int) -> bytes:
        """The token's own bytes; a special token's are its name."""
        return self._tokenizer.token_bytes(id) if id < self._tokenizer.vocab_size else b""

    def visible(self, id: int) -> bytes:
        """What the token adds to an answer: nothing if it is special."""
        return b"" if id in self._hidden else self.literal(id)

    def prompt(self, ids: Sequence[int]) -> Iterator[bytes]:
        """A prompt's tokens as the client wrote them: special tokens by name, less the one that begins every text."""
        bos = self._tokenizer.bos_token_id
        return (b"" if place == 0 and id == bos else self.literal(id) for place, id in enumerate(ids))


def names_by_role(tokenizer: Tokenizer) -> dict[str, str]:
    """Special tokens as chat templates ask for them, such as ``{"bos_token": "<s>"}``."""
    found = {role: tokenizer.config.get(role) for role in ROLES}
    names = {role: token["content"] if isinstance(token, dict) else token for role, token in found.items()}
    return {role: name for role, name in names.items() if isinstance(name, str)}


def begins_with_bos(tokenizer: Tokenizer) -> bool:
    """Whether texts get the beginning-of-text token, where there is one: yes, unless tokenizer_config.json says no."""
    return bool(tokenizer.config.get("add_bos_token", True))
