"""Timeline: what was done when, by whom, and what memory it took; of the simulator or of a real run, one type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from grainline.schedule.actions import COMPUTE, Action
from grainline.schedule.graph import Floats, Ints


@dataclass(frozen=True)
class MemorySeries:
    """Bytes held in one tier over time: `bytes[i]` from `seconds[i]` on."""

    tier: str
    seconds: Floats
    bytes: Floats
    capacity_bytes: float | None = None

    @property
    def peak_bytes(self) -> float:
        """The most at any time."""
        return float(self.bytes.max()) if len(self.bytes) else 0.0


@dataclass(frozen=True)
class Timeline:
    """Tasks with their beginnings and ends, in seconds from the step's start."""

    name: str
    how: str  # "simulated" or "measured"
    ranks: int
    streams: tuple[str, ...]
    actions: tuple[Action, ...]
    rank: Ints
    stream: Ints
    start: Floats
    end: Floats
    memory: tuple[MemorySeries, ...] = ()
    link_bytes: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def makespan(self) -> float:
        """Seconds from the step's start to its last end."""
        return float(self.end.max()) if len(self.end) else 0.0

    def busy_seconds(self) -> Floats:
        """Of compute, by rank."""
        is_compute = np.fromiter((a.kind in COMPUTE for a in self.actions), dtype=bool, count=len(self.actions))
        busy: Floats = np.bincount(
            self.rank[is_compute], weights=(self.end - self.start)[is_compute], minlength=self.ranks
        )
        return busy

    @property
    def bubble_fraction(self) -> float:
        """Idle over all of the ranks' time: 1 − busy / (ranks · makespan)."""
        return float(1 - self.busy_seconds().sum() / (self.ranks * self.makespan)) if self.makespan else 0.0

    @property
    def bubble_overhead(self) -> float:
        """The papers' figure: time beyond the busiest rank's compute, over that compute."""
        busy = float(self.busy_seconds().max())
        return self.makespan / busy - 1 if busy else 0.0
