"""What an overlap schedules: the rows that one rank's experts get, their tiles, and a device's rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from grainline.documents import GrainlineError


@dataclass(frozen=True)
class ExpertLayer:
    """One rank's part of an MoE layer whose experts are dealt over ranks.

    `rows_WE[s][e]` rows come from rank s to this rank's expert e, its own among them.
    """

    rows_WE: tuple[tuple[int, ...], ...]
    width: int  # D
    hidden: int  # F
    rank: int = 0
    up_matrices: int = 1  # of the first product: 2 where a gate goes with it
    element_bytes: int = 2

    def __post_init__(self) -> None:
        """Raises GrainlineError that names the figure that can't be."""
        if not self.rows_WE or len({len(rows) for rows in self.rows_WE}) != 1 or not self.rows_WE[0]:
            raise GrainlineError("a layer needs as many counts from each source rank as it has experts, at least one.")
        for source, rows in enumerate(self.rows_WE):
            for expert, count in enumerate(rows):
                if count < 0:
                    raise GrainlineError(f"source {source} has {count} rows for expert {expert}: 0 or more, please.")
        if not 0 <= self.rank < self.sources:
            raise GrainlineError(f"rank {self.rank} is none of the {self.sources} sources of rows.")
        for name in ("width", "hidden", "up_matrices", "element_bytes"):
            if getattr(self, name) < 1:
                raise GrainlineError(f"a layer's {name} is 1 or more, not {getattr(self, name)}.")

    @property
    def sources(self) -> int:
        """W."""
        return len(self.rows_WE)

    @property
    def experts(self) -> int:
        """Of this rank."""
        return len(self.rows_WE[0])

    @property
    def rows(self) -> int:
        """N."""
        return sum(map(sum, self.rows_WE))

    @property
    def arrival(self) -> tuple[int, ...]:
        """Sources in the order in which rows arrive: this rank, the next, and so on around."""
        return tuple((self.rank + i) % self.sources for i in range(self.sources))

    def stage(self, source: int) -> int:
        """A source's place in `arrival`."""
        return (source - self.rank) % self.sources

    @property
    def remote_rows(self) -> int:
        """Of other ranks."""
        return self.rows - sum(self.rows_WE[self.rank])

    @property
    def exchange_bytes(self) -> int:
        """That come in before the experts, and go back after them."""
        return self.remote_rows * self.width * self.element_bytes

    @property
    def flops(self) -> float:
        """Of both products, without padding."""
        return 2.0 * self.rows * self.width * self.hidden * (self.up_matrices + 1)


class TileShape(NamedTuple):
    """Rows and columns of the output that one worker computes at a time."""

    rows: int = 128
    columns: int = 256


@dataclass(frozen=True)
class TileDevice:
    """Rates of the device that works on tiles. `flops_per_second` are what all workers together reach."""

    workers: int
    flops_per_second: float
    link_bytes_per_second: float  # in each direction
    memory_bytes_per_second: float = math.inf  # of all workers together; infinite: sums of rows take no time
    launch_seconds: float = 0.0
    push_bytes_per_second: float = math.inf  # that one communicating worker writes to other ranks

    def __post_init__(self) -> None:
        """Raises GrainlineError where a rate is none."""
        if self.workers < 1:
            raise GrainlineError(f"a device of {self.workers} workers computes nothing: 1 or more, please.")
        for name in ("flops_per_second", "link_bytes_per_second", "memory_bytes_per_second", "push_bytes_per_second"):
            if not getattr(self, name) > 0:
                raise GrainlineError(f"a device's {name} is above 0, not {getattr(self, name)}.")
