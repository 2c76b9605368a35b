"""What a relay does to data: it holds every piece for a set time, in order, and holds no more than so much at once."""

from __future__ import annotations

import time
from collections import deque

MOST_BYTES = 256 << 20  # held in one direction


class Delay:
    """Pieces in one direction, each with the moment at which it may go on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.pieces: deque[tuple[float, bytes]] = deque()
        self.held_bytes = 0

    @property
    def full(self) -> bool:
        """Whether reading must wait: only where more than MOST_BYTES are on their way."""
        return self.held_bytes >= MOST_BYTES

    def put(self, piece: bytes) -> None:
        """Something has come."""
        self.pieces.append((time.monotonic() + self.seconds, piece))
        self.held_bytes += len(piece)

    def due(self) -> bytes | None:
        """The next piece, if its time has come; it stays until `take`."""
        return self.pieces[0][1] if self.pieces and self.pieces[0][0] <= time.monotonic() else None

    def take(self, sent_bytes: int) -> None:
        """So much of the next piece has gone on."""
        moment, piece = self.pieces.popleft()
        self.held_bytes -= sent_bytes
        if sent_bytes < len(piece):
            self.pieces.appendleft((moment, piece[sent_bytes:]))

    def wait_seconds(self) -> float | None:
        """Until the next piece is due; None if there is none."""
        return max(0.0, self.pieces[0][0] - time.monotonic()) if self.pieces else None


def soonest(*waits: float | None) -> float | None:
    """The shortest of several waits."""
    return min((wait for wait in waits if wait is not None), default=None)
