"""Tasks as columns of numbers, and the costs of their stages as a table: what `lower` computes with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grainline.schedule.actions import Kind
from grainline.schedule.costs import Costs
from grainline.schedule.dependencies import Task
from grainline.schedule.graph import Floats

Longs = NDArray[np.int64]
Mask = NDArray[np.bool_]

KINDS = tuple(Kind)
CODE = {kind: code for code, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Columns:
    """A row per task: its action's fields as numbers, and the rank of its first place. −1 where there is none."""

    kind: Longs  # index into KINDS
    stage: Longs
    microbatch: Longs
    rank: Longs
    peer: Longs
    peer_stage: Longs

    @classmethod
    def of(cls, tasks: Iterable[Task]) -> Columns:
        """One pass over the tasks."""
        rows = [
            (CODE[a.kind], a.stage, a.microbatch, task.places[0].rank, a.peer, a.peer_stage)
            for task in tasks
            for a in (task.action,)
        ]
        return cls(*np.array(rows, dtype=np.int64).reshape(-1, 6).T.copy())

    def __len__(self) -> int:
        return len(self.kind)

    def are(self, *kinds: Kind) -> Mask:
        """Which tasks are of one of these kinds."""
        return np.isin(self.kind, [CODE[kind] for kind in kinds])

    def here(self) -> Longs:
        """A number for each task's rank, stage and micro-batch: equal where all three are."""
        return self._number(self.rank, self.stage)

    def there(self) -> Longs:
        """The same of a message's other end."""
        return self._number(self.peer, self.peer_stage)

    def _number(self, rank: Longs, stage: Longs) -> Longs:
        stages = 2 + int(max(self.stage.max(initial=-1), self.peer_stage.max(initial=-1)))
        microbatches = 2 + int(self.microbatch.max(initial=-1))
        return (rank * stages + stage + 1) * microbatches + self.microbatch + 1


def look_up(keys: Longs, values: Floats, wanted: Longs) -> Floats:
    """The value that stands by each wanted key; 0 where the key isn't there. Keys are distinct."""
    if not len(keys):
        return np.zeros(len(wanted))
    order = np.argsort(keys)
    at = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    found = order[at]
    return np.where(keys[found] == wanted, values[found], 0.0)


@dataclass(frozen=True)
class StageTable:
    """What each stage costs on each rank that has to do with it: a row per (stage, rank), and one of NaN for others."""

    ranks: int
    keys: Longs  # stage · ranks + rank, ascending
    seconds: Floats  # [row, kind]; NaN where nothing is said
    output_bytes: Floats  # by row
    kept_bytes: Floats
    input_bytes: Floats
    queued_bytes: Floats

    @classmethod
    def of(cls, costs: Costs, ranks: int, columns: Columns) -> StageTable:
        """Asks once for each stage and rank of the tasks and of the messages' other ends."""
        own = (columns.stage * ranks + columns.rank)[columns.stage >= 0]
        others = (columns.peer_stage * ranks + columns.peer)[columns.peer_stage >= 0]
        keys = np.unique(np.concatenate([own, others]))
        found = [costs.stage(*divmod(key, ranks)) for key in keys.tolist()]
        seconds = [[one.seconds.get(kind, np.nan) for kind in KINDS] for one in found]
        sizes = [(one.output_bytes, one.kept_bytes, one.input_bytes, one.queued_bytes) for one in found]
        by_size = np.array([*sizes, (0.0,) * 4], dtype=np.float64).T.copy()
        return cls(ranks, keys, np.array([*seconds, [np.nan] * len(KINDS)], dtype=np.float64), *by_size)

    def row(self, stage: Longs, rank: Longs) -> Longs:
        """Where a stage on a rank stands; the last row where the stage is −1."""
        return np.where(stage >= 0, np.searchsorted(self.keys, stage * self.ranks + rank), len(self.keys))
