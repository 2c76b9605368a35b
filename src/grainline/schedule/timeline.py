"""Timeline: what was done when, by whom, and what memory it took; of the simulator or of a real run, one type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grainline.documents import GrainlineError, write_atomically
from grainline.schedule.actions import COMPUTE, Action, Kind
from grainline.schedule.simulator.graph import Floats, Ints

SCHEMA_VERSION = 1


def rank_tier(rank: int) -> str:
    """The name of a rank's own memory."""
    return f"rank {rank}"


def host_tier(rank: int) -> str:
    """The name of the host memory in which a rank's offloaded activations wait."""
    return f"host of rank {rank}"


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
    rows: tuple[str, ...] = ()  # what `rank` counts, by name, where it isn't ranks

    def row(self, rank: int) -> str:
        """The name of a rank, or of what else a row is."""
        return self.rows[rank] if self.rows else f"rank {rank}"

    def __len__(self) -> int:
        return len(self.start)

    @property
    def makespan(self) -> float:
        """Seconds from the step's start to its last end."""
        return float(self.end.max()) if len(self.end) else 0.0

    def busy_seconds(self) -> Floats:
        """Of compute, by rank."""
        is_compute = np.fromiter((a.kind in COMPUTE for a in self.actions), dtype=bool, count=len(self.actions))
        seconds = (self.end - self.start)[is_compute]
        return np.bincount(self.rank[is_compute], weights=seconds, minlength=self.ranks).astype(np.float64)

    @property
    def bubble_fraction(self) -> float:
        """Idle over all of the ranks' time: 1 − busy / (ranks · makespan)."""
        return float(1 - self.busy_seconds().sum() / (self.ranks * self.makespan)) if self.makespan else 0.0

    @property
    def bubble_overhead(self) -> float:
        """The papers' figure: time beyond the busiest rank's compute, over that compute."""
        busy = float(self.busy_seconds().max())
        return self.makespan / busy - 1 if busy else 0.0

    def peak_bytes(self) -> Floats:
        """The most that each rank's own memory holds at any time, by rank; 0 where nothing is said."""
        peaks = {series.tier: series.peak_bytes for series in self.memory}
        return np.array([peaks.get(rank_tier(rank), 0.0) for rank in range(self.ranks)])

    def save(self, path: str | Path) -> None:
        """As JSON, whole or not at all. Floats come back as they were."""
        actions = [(a.kind.value, a.stage, a.microbatch, a.peer, a.peer_stage) for a in self.actions]
        memory = [
            {
                "tier": one.tier,
                "seconds": one.seconds.tolist(),
                "bytes": one.bytes.tolist(),
                "capacity_bytes": one.capacity_bytes,
            }
            for one in self.memory
        ]
        found = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "how": self.how,
            "ranks": self.ranks,
            "streams": self.streams,
            "actions": actions,
            "rank": self.rank.tolist(),
            "stream": self.stream.tolist(),
            "start": self.start.tolist(),
            "end": self.end.tolist(),
            "memory": memory,
            "link_bytes": dict(self.link_bytes),
            "rows": self.rows,
        }
        write_atomically(Path(path), json.dumps(found, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Timeline:
        """What `save` wrote. GrainlineError where the file isn't there or isn't one of them."""
        try:
            found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            if found["schema_version"] != SCHEMA_VERSION:
                raise GrainlineError(f"{path}: a timeline of version {found['schema_version']}, not {SCHEMA_VERSION}.")
            return cls(
                name=found["name"],
                how=found["how"],
                ranks=found["ranks"],
                streams=tuple(found["streams"]),
                actions=tuple(Action(Kind(kind), *numbers) for kind, *numbers in found["actions"]),
                rank=np.array(found["rank"], np.int32),
                stream=np.array(found["stream"], np.int32),
                start=np.array(found["start"], np.float64),
                end=np.array(found["end"], np.float64),
                memory=tuple(
                    MemorySeries(one["tier"], np.array(one["seconds"]), np.array(one["bytes"]), one["capacity_bytes"])
                    for one in found["memory"]
                ),
                link_bytes=found["link_bytes"],
                rows=tuple(found.get("rows", ())),
            )
        except OSError as error:
            raise GrainlineError(f"{path}: {error.strerror}. Name a file that a timeline was saved to.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise GrainlineError(
                f"{path}: no timeline ({error!r}). Name a file that a timeline was saved to."
            ) from None
