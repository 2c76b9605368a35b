"""What may be chosen about an overlap. Each member reads what concerns it."""

from __future__ import annotations

from dataclasses import dataclass, field

from grainline.documents import GrainlineError
from grainline.schedule.overlap.layer import ExpertLayer, TileShape


@dataclass(frozen=True)
class Options:
    """`tile` is of all products; `chunks` of the pipeline in chunks; `groups` and `comm_workers` of tile order."""

    tile: TileShape = field(default_factory=TileShape)
    chunks: int = 2
    groups: int = 4  # of columns that go back together; fewer where there are fewer column tiles
    comm_workers: int = 0
    launches: int = 4  # that the host starts for each chunk

    def __post_init__(self) -> None:
        """Raises GrainlineError that names the option."""
        if min(self.tile) < 1:
            raise GrainlineError(f"tile {self.tile.rows}x{self.tile.columns}: both sides are 1 or more.")
        for name, least in (("chunks", 1), ("groups", 1), ("comm_workers", 0), ("launches", 0)):
            if getattr(self, name) < least:
                raise GrainlineError(f"{name} = {getattr(self, name)}: must be {least} or more.")

    def column_groups(self, layer: ExpertLayer) -> int:
        """As many as are wanted, or one for each column tile of the second product."""
        return min(self.groups, -(-layer.width // self.tile.columns))


DEFAULT = Options()
