"""What each token id is as text: its own bytes, and what it adds to an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence


class TokenText:
    """A tokenizer's tokens as bytes. Ids that it doesn't have (rows that pad the model's vocabulary) are empty."""

    def __init__(
        self, token_bytes: Callable[[int], bytes], size: int, special: Mapping[str, int], bos: int | None = None
    ) -> None:
        """special: ids of special tokens by name; size: the tokenizer's ids lie below it."""
        self.special = dict(special)
        self._token_bytes = token_bytes
        self._size = size
        self._bos = bos
        self._hidden = frozenset(self.special.values())

    def literal(self, id: int) -> bytes:
        """The token's own bytes; a special token's are its name."""
        return self._token_bytes(id) if id < self._size else b""

    def visible(self, id: int) -> bytes:
        """What the token adds to an answer: nothing if it is special."""
        return b"" if id in self._hidden else self.literal(id)

    def prompt(self, ids: Sequence[int]) -> Iterable[bytes]:
        """A prompt's tokens as the client wrote them: special tokens by name, less the one that begins every text."""
        return (b"" if place == 0 and id == self._bos else self.literal(id) for place, id in enumerate(ids))
