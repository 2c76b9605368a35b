"""TaskGraph: tasks with work on resources, dependencies and memory effects; what the simulator plays.

Columns, not objects: a step of a thousand ranks has a million tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grainline.schedule.actions import Action

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Link:
    """A shared resource: flows that cross it at the same time get fair shares of its bytes per second."""

    name: str
    bytes_per_second: float


@dataclass(frozen=True)
class Tier:
    """Memory of one kind at one place. A task that finds no room waits for it; None is without bound."""

    name: str
    capacity_bytes: float | None = None


@dataclass(frozen=True)
class Interference:
    """While `by` (the name of a stream or a link) is busy, tasks on stream `stream` run at `speed` of theirs.

    Speeds of several multiply. A flow that is slowed still holds its fair share of its links.
    """

    stream: int
    by: str
    speed: float


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths in one array: list i is values[offsets[i] : offsets[i + 1]]."""

    offsets: Ints
    values: Ints

    @classmethod
    def of(cls, lists: list[list[int]] | list[tuple[int, ...]] | tuple[tuple[int, ...], ...]) -> Ragged:
        """From Python lists."""
        lengths = np.fromiter((len(x) for x in lists), dtype=np.int64, count=len(lists))
        offsets = np.zeros(len(lists) + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        values = np.fromiter((v for x in lists for v in x), dtype=np.int32, count=int(offsets[-1]))
        return cls(offsets, values)

    def __getitem__(self, i: int) -> Ints:
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Memory:
    """What tasks do to memory: rows of (task, tier, bytes at its start, bytes at its end); negative frees.

    Memory is taken at starts alone, so that a task that finds no room can wait. A task and a tier have one row.
    """

    task: Ints
    tier: Ints
    start_bytes: Floats
    end_bytes: Floats

    @classmethod
    def none(cls) -> Memory:
        """No effects."""
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0), np.zeros(0))


@dataclass(frozen=True)
class TaskGraph:
    """Tasks, in an order in which each stream carries out its own.

    Task i runs on stream `stream[i]`, one at a time and in order of index, once the tasks `needs[i]` have ended. It
    takes `seconds[i]` (latency, if it is a message) and then moves `bytes[i]` over all links `crosses[i]` at once, at
    the max–min fair rate that they leave it; a link named twice is crossed twice. `base_bytes` is what each tier holds
    from beginning to end. `engine_py.py` says the rest.
    """

    streams: tuple[str, ...]
    links: tuple[Link, ...]
    tiers: tuple[Tier, ...]
    base_bytes: Floats  # by tier
    stream: Ints  # by task
    seconds: Floats
    bytes: Floats
    crosses: Ragged  # links of each task
    needs: Ragged
    memory: Memory
    actions: tuple[Action, ...]
    rank: Ints  # by task; of the sender, where it is a message
    interference: tuple[Interference, ...] = ()

    def __len__(self) -> int:
        return len(self.stream)

    def name(self, task: int) -> str:
        """For people: e.g. "task 12 (rank 2: F3.0)"."""
        known = 0 <= task < min(len(self.actions), len(self.rank))
        return f"task {task} (rank {self.rank[task]}: {self.actions[task]})" if known else f"task {task}"

    def disturbances(self) -> list[tuple[int, int, float]]:
        """`interference` by number: (stream, by, speed), where `by` counts streams, then links."""
        number = {name: i for i, name in enumerate([*self.streams, *(link.name for link in self.links)])}
        return [(one.stream, number[one.by], one.speed) for one in self.interference]
