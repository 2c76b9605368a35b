"""From tokens to text, as they come: no half characters, no part of a stop string, wherever tokens end."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from grainline.models.generate import GeneratedToken


class StopMatcher:
    """Finds the first stop string in text that comes in pieces, and lets out only what can't be part of one.

    The text ends before the stop string that is completed first; of two completed by the same character, the longer
    one counts. So the result doesn't depend on where the pieces end.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Take the next piece; returns what is certain to be text. After a match (see `matched`) nothing follows."""
        if self.matched is not None:
            return ""
        held = self._held + text
        found = [(held.index(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in held]
        if found:
            end, _, self.matched = min(found)
            self._held = ""
            return held[: end - len(self.matched)]
        keep = max((_begun(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """No more text comes: what was held back is text after all."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`, at most all but one of it."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


@dataclass(frozen=True)
class Piece:
    """Text that is final, with the tokens that begin in it and the character at which each begins."""

    text: str
    tokens: tuple[GeneratedToken, ...]
    offsets: tuple[int, ...]


class TextStream:
    """The text of one sequence of tokens, piece by piece.

    A character whose bytes are split over tokens is held back until it is whole; one still unfinished when the tokens
    end is left out. Bytes that can't be UTF-8 become U+FFFD, as they would in decoding everything at once.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stops: Iterable[str] = ()) -> None:
        """`token_bytes` gives what a token id adds to the text; special tokens add nothing."""
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._matcher = StopMatcher(stops)
        self._decoded = 0  # characters, those held back included
        self._released = 0
        self._pending: list[tuple[GeneratedToken, int]] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._matcher.matched is not None

    def prime(self, prompt: Iterable[bytes]) -> tuple[str, tuple[int, ...]]:
        """Put a prompt's tokens before: returns its text and the character at which each token begins.

        A character that it leaves open is finished by what follows. Offsets that follow count on from the prompt's,
        and stop strings are not looked for in it.
        """
        text, offsets = "", []
        for data in prompt:
            offsets.append(len(text))
            text += self._decoder.decode(data)
        self._decoded = self._released = len(text)
        return text, tuple(offsets)

    def push(self, token: GeneratedToken) -> Piece:
        """Take the next token; returns what has become final, perhaps nothing."""
        self._pending.append((token, self._decoded))
        text = self._decoder.decode(self._token_bytes(token.id))
        self._decoded += len(text)
        return self._piece(self._matcher.push(text), everything=False)

    def finish(self) -> Piece:
        """The tokens have ended: what was held back, unless a stop string has ended the text."""
        return self._piece(self._matcher.finish(), everything=not self.stopped)

    def _piece(self, text: str, everything: bool) -> Piece:
        self._released += len(text)
        count = sum(everything or offset < self._released for _, offset in self._pending)
        out, self._pending = self._pending[:count], self._pending[count:]
        return Piece(text, tuple(token for token, _ in out), tuple(offset for _, offset in out))
