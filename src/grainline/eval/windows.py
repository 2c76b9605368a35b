"""Sliding windows: a sequence longer than the context is scored, each token once and with enough before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Tokens [start, stop) go in; targets first … stop are scored. Target t is what follows input t − 1."""

    start: int
    stop: int
    first: int

    @property
    def inputs(self) -> int:
        """Tokens that go in."""
        return self.stop - self.start


def windows(length: int, first: int, size: int) -> Iterator[Window]:
    """Windows of at most `size` inputs that score targets first … length − 1 of a sequence, each exactly once.

    The first window is full, later ones move on by half a window; so every target sees all that is before it, or at
    least size / 2 tokens.
    """
    if not 1 <= first < length:
        return
    stride = max(1, size // 2)
    stop = min(length - 1, max(size, first - 1 + stride))
    while True:
        yield Window(max(0, stop - size), stop, first)
        if stop == length - 1:
            return
        first, stop = stop + 1, min(length - 1, stop + stride)
