"""The costs of a schedule's stages as a table, for computing with whole columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grainline.schedule.actions import COPIES, RECEIVES, SENDS, Kind
from grainline.schedule.columns import KINDS, Columns, Index, Longs
from grainline.schedule.costs import Costs
from grainline.schedule.simulator.graph import Floats

OF_STAGE = frozenset({Kind.F, Kind.B, Kind.I, Kind.W, Kind.R})  # what a stage's cost has seconds for


@dataclass(frozen=True)
class StageTable:
    """A row per stage and rank that has to do with it, and a last row for all else, of NaN seconds and 0 bytes."""

    rows: Index
    seconds: Floats  # [row, kind]; NaN where nothing is said
    output_bytes: Floats  # by row
    kept_bytes: Floats
    input_bytes: Floats
    queued_bytes: Floats

    @classmethod
    def of(cls, costs: Costs, actions: Columns) -> StageTable:
        """Asks once for each stage and rank of the actions and of the messages' other ends."""
        own = actions.take(actions.rows(OF_STAGE | COPIES))
        messages = actions.take(actions.rows(SENDS | RECEIVES))
        pairs = [(own.stage, own.rank), (messages.stage, messages.rank), (messages.peer_stage, messages.peer)]
        unique = np.unique(np.concatenate([np.stack(pair, axis=1) for pair in pairs]), axis=0)
        found = [costs.stage(stage, rank) for stage, rank in unique.tolist()]
        seconds = [[one.seconds.get(kind, np.nan) for kind in KINDS] for one in found]
        sizes = [(one.output_bytes, one.kept_bytes, one.input_bytes, one.queued_bytes) for one in found]
        by_size = np.array([*sizes, (0.0,) * 4], dtype=np.float64).T.copy()
        rows = Index(np.arange(len(unique)), unique[:, 0], unique[:, 1])
        return cls(rows, np.array([*seconds, [np.nan] * len(KINDS)], dtype=np.float64), *by_size)

    def row(self, stage: Longs, rank: Longs) -> Longs:
        """Where stages on ranks stand. −1, the last row, where there is none."""
        return self.rows.first(stage, rank)
