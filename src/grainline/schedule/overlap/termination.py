"""How workers know without a barrier that all is done: a bound on tasks that signals make exact (FlashMoE, section 3).

The bound begins with what could come at most: full cells from every source, and results of all of the rank's own rows.
The signal of each source takes off what will not come. All is done when as many tasks are done as the bound says and
every source has signalled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from grainline.documents import GrainlineError
from grainline.schedule.overlap.layer import TileShape


@dataclass
class Termination:
    """Counts of one call. `capacity` is rows of one (source, expert) at most; `returned_tiles` row tiles come back."""

    sources: int
    experts: int  # of this rank
    width: int
    hidden: int
    tile: TileShape
    capacity: int
    returned_tiles: int
    made: int = 0
    scheduled: int = 0
    done: int = 0
    bound: int = field(init=False)
    heard: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.bound = self.sources * self.experts * -(-self.capacity // self.tile.rows) * self._of_block
        self.bound += self.returned_tiles * -(-self.width // self.tile.columns)

    @property
    def _of_block(self) -> int:
        """Tasks of one block of rows: F/columns, then D/columns."""
        return -(-self.hidden // self.tile.columns) + -(-self.width // self.tile.columns)

    def signal(self, source: int, rows_E: tuple[int, ...]) -> None:
        """A source says how many rows it has for each expert; zeros too. GrainlineError where they are too many."""
        if source in self.heard:
            raise GrainlineError(f"source {source} has signalled twice in one call.")
        for expert, rows in enumerate(rows_E):
            if rows > self.capacity:
                raise GrainlineError(
                    f"source {source} has {rows} rows for expert {expert}, of {self.capacity} at most."
                )
            self.bound -= (-(-self.capacity // self.tile.rows) - -(-rows // self.tile.rows)) * self._of_block
        self.heard.add(source)

    @property
    def finished(self) -> bool:
        """Every source has signalled, and what was made has been done."""
        return len(self.heard) == self.sources and self.done == self.bound
