"""What crosses from one stage of a path to the next, known to every rank from the cut and the paths alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grainline.documents import GrainlineError, ModelConfig
from grainline.models.cells import Batch, cell_names
from grainline.schedule import Hop, Schedule
from grainline.schedule.schedule import Path

Cells = tuple[str, ...]
"""Names of a stage's cells, in order; none is allowed."""

Key = tuple[int, int]
"""Stage and micro-batch: what a rank does at most once a step."""

Names = tuple[str, ...]
"""Fields of `models.cells.Carry` that there are at a boundary."""

ROUTER = "router_TC"

AFTER: dict[str, Names] = {
    "embedding": ("hidden_BSD",),
    "mtp": ("hidden_BSD", "further_bSD"),
    "mtp_head": ("hidden_BSD",),
    "norm": ("hidden_BSD",),
    "head": (),
}
"""Kind of cell → what it leaves; any other leaves what it found, and a block whose router carries that too."""


def carrying(config: ModelConfig) -> frozenset[str]:
    """The cells whose routers leave something to the next one's."""
    if config.moe is None or not config.moe.carry_width:
        return frozenset()
    return frozenset(f"block.{layer}" for layer in config.sparse_layers if layer < config.layers)


def boundaries(
    path: Path, stages: Sequence[Cells], first: Names = (), carriers: frozenset[str] = frozenset()
) -> tuple[Names, ...]:
    """What enters each hop of a path, and what the last one leaves; `first` enters the first."""
    found: list[Names] = [first]
    for hop in path:
        names = found[-1]
        for cell in stages[hop.stage]:
            names = AFTER.get(cell, names)
            if cell in carriers and ROUTER not in names:
                names = (*names, ROUTER)
        found.append(names)
    return tuple(found)


@dataclass(frozen=True)
class Place:
    """Of a stage on a micro-batch's path: the hops around it, and what crosses there."""

    before: Hop | None
    after: Hop | None
    enters: Names
    leaves: Names


def places(
    schedule: Schedule,
    rank: int,
    stages: Sequence[Cells],
    first: Names = (),
    carriers: frozenset[str] = frozenset(),
) -> dict[Key, Place]:
    """Where this rank's stages are on all paths."""
    found = {}
    for m, path in enumerate(schedule.paths):
        crossing = boundaries(path, stages, first, carriers)
        for i, hop in enumerate(path):
            if hop.rank == rank:
                before, after = path[i - 1] if i else None, path[i + 1] if i + 1 < len(path) else None
                found[hop.stage, m] = Place(before, after, crossing[i], crossing[i + 1])
    return found


def shape_of(name: str, config: ModelConfig, batch: Batch) -> tuple[int, ...]:
    """Of a field of `Carry`; a router's is of tokens, and float32 even where the stream is narrower."""
    rows, length = batch.ids_BS.shape
    if name == ROUTER:
        assert config.moe is not None
        return rows * length, config.moe.carry_width
    if name == "further_bSD":
        assert batch.further is not None
        rows = len(batch.further.row_b)
    return rows, length, config.hidden_size


def check_cells(config: ModelConfig, stages: Sequence[Cells]) -> None:
    """Raise GrainlineError unless stages in order have every cell of the model once."""
    wanted, found = list(cell_names(config)), [cell for cells in stages for cell in cells]
    if found != wanted:
        odd = next((f"{b} where {a} should be" for a, b in zip(wanted, found, strict=False) if a != b), "")
        odd = odd or f"{len(found)} of {len(wanted)} cells"
        raise GrainlineError(f"The stages don't make up the model: {odd}. Mend the plan's pipeline.cut.")


def check_paths(schedule: Schedule, stages: Sequence[Cells]) -> None:
    """Raise GrainlineError unless each micro-batch passes all cells but blocks, in order, with its blocks between.

    A path may leave blocks out and change their order; it can't do without embedding, loss or MTP.
    """
    wanted = [cell for cells in stages for cell in cells if not cell.startswith("block.")]
    for m, path in enumerate(schedule.paths):
        passed = [cell for hop in path for cell in stages[hop.stage]]
        others = [cell for cell in passed if not cell.startswith("block.")]
        if others != wanted:
            raise GrainlineError(
                f"Micro-batch {m} passes {', '.join(others) or 'nothing'} beside blocks; it must pass "
                f"{', '.join(wanted)}, in this order. Mend the plan's pipeline.paths."
            )
        blocks = [i for i, cell in enumerate(passed) if cell.startswith("block.")]
        last = passed.index("embedding") if "embedding" in passed else -1
        after = next((i for i, cell in enumerate(passed) if i > last and not cell.startswith("block.")), len(passed))
        if blocks and not (last < blocks[0] and blocks[-1] < after):
            raise GrainlineError(
                f"Micro-batch {m} has blocks before the embedding or after the last norm. Mend the plan's "
                "pipeline.paths."
            )
    for stage, cells in enumerate(stages):
        if cells and not schedule.holders(stage):
            raise GrainlineError(
                f"No micro-batch visits stage {stage} ({', '.join(cells)}), so no rank would hold it. "
                "Mend the plan's pipeline.paths."
            )
