"""When a rank dies or hangs in the middle of a step: who was it, and at what did the others stop."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch.distributed as dist

from grainline.documents import GrainlineError

GRACE_SECONDS = 3.0
"""How long a rank that gave up waits to hear whether the one it waited for was itself waiting for another."""

LONGEST_ERROR = 300


class PipelineError(GrainlineError):
    """A step that can't be finished, because a rank is gone, hangs or failed."""


@dataclass(frozen=True)
class Grievance:
    """Why a rank stopped: it waited for another, or met an error of its own."""

    action: str
    waited_for: int | None
    error: str


class Watch:
    """Ranks that stop leave a note in the store that they met through, so that others can tell whose fault it was."""

    def __init__(self, rank: int, store: dist.Store | None, timeout_seconds: float) -> None:
        self.rank, self.timeout_seconds = rank, timeout_seconds
        self._store = store

    def waited(self, action: str, other: int, error: Exception) -> PipelineError:
        """The error to raise where `other` didn't do its part of `action`."""
        gone = not any(words in str(error).lower() for words in ("timed out", "timeout"))
        self._leave(Grievance(action, other, str(error)[:LONGEST_ERROR]))
        how = "whose connection broke" if gone else f"for {self.timeout_seconds:g} s"
        chain = self._chain(other)
        text = f"Rank {self.rank} stopped at {action}: it waited for rank {other}{', ' if gone else ' '}{how}"
        for rank, grievance in chain:
            if grievance is None:
                text += f". Rank {rank} has died or hangs"
            elif grievance.waited_for is None:
                text += f". Rank {rank} failed at {grievance.action}: {grievance.error}"
            else:
                text += f"; rank {rank} waited for rank {grievance.waited_for} at {grievance.action}"
        return PipelineError(f"{text.rstrip('.')}. Look at that rank's log, and start all of them again.")

    def failed(self, action: str, error: Exception) -> None:
        """Let the others know of an error of this rank's own."""
        self._leave(Grievance(action, None, f"{type(error).__name__}: {error}"[:LONGEST_ERROR]))

    def _leave(self, grievance: Grievance) -> None:
        self._briefly(lambda store: store.set(_key(self.rank), json.dumps(asdict(grievance))))

    def _chain(self, rank: int) -> list[tuple[int, Grievance | None]]:
        """From the rank waited for to the one whose fault it was; None where a rank has said nothing."""
        found: list[tuple[int, Grievance | None]] = []
        seen = {self.rank}
        end = time.monotonic() + GRACE_SECONDS
        while rank not in seen:
            seen.add(rank)
            grievance = self._read(rank, end)
            found.append((rank, grievance))
            if grievance is None or grievance.waited_for is None:
                break
            rank = grievance.waited_for
        return found

    def _read(self, rank: int, end: float) -> Grievance | None:
        while True:
            text = self._briefly(lambda store: store.get(_key(rank)) if store.check([_key(rank)]) else None)
            if text is not None:
                return Grievance(**json.loads(text))
            if time.monotonic() > end:
                return None
            time.sleep(0.05)

    def _briefly(self, use: Callable[[dist.Store], bytes | None]) -> bytes | None:
        """Use the store for a moment at most: it may be gone, or hang, with the rank that has it."""
        box: list[bytes | None] = []

        def run() -> None:
            try:
                if self._store is not None:
                    box.append(use(self._store))
            except Exception:  # whatever it is, the store can't be asked
                self._store = None

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(GRACE_SECONDS)
        if thread.is_alive():
            self._store = None
        return box[0] if box else None


def _key(rank: int) -> str:
    return f"grainline/pipeline/stopped/{rank}"
