"""What a schedule's tasks do to memory.

F takes what its stage keeps, at its start: all of it, or its input alone where R computes the rest again (R then takes
the rest). B frees all of that at its end; I all but what it queues for W; W what was queued. OFFLOAD takes room at the
host at its start and frees the rank's at its end, FETCH the other way round. A message takes room at its receiver at
its start: F's own input counts as kept from F's start on, a gradient is freed at the end of the backward that uses it.
"""

from __future__ import annotations

import numpy as np

from grainline.schedule.actions import Kind
from grainline.schedule.columns import Columns, Longs, StageTable, look_up
from grainline.schedule.graph import Floats, Memory


def kept_by_forward(columns: Columns, table: StageTable) -> Floats:
    """By task: what the F of its rank, stage and micro-batch keeps; 0 for tasks of no stage."""
    here, row = columns.here(), table.row(columns.stage, columns.rank)
    again = np.isin(here, here[columns.are(Kind.R)])
    return np.where(again, table.input_bytes[row], table.kept_bytes[row])


def memory_of(columns: Columns, table: StageTable, host_tier: Longs, message_bytes: Floats | None) -> Memory:
    """Rows for every task that takes or frees anything. Tier r is rank r's own, `host_tier[r]` its host's.

    `message_bytes` is by task, 0 for what is no message; None leaves received tensors out.
    """
    row = table.row(columns.stage, columns.rank)
    whole, queued, kept = table.kept_bytes[row], table.queued_bytes[row], kept_by_forward(columns, table)
    arriving = np.zeros(len(columns)) if message_bytes is None else message_bytes
    start = (
        _of(columns, kept, Kind.F, Kind.FETCH)
        + _of(columns, whole - kept, Kind.R)
        - _of(columns, _received(columns, arriving, Kind.SEND_F), Kind.F)
    )
    end = (
        _of(columns, -whole, Kind.B)
        + _of(columns, queued - whole, Kind.I)
        - _of(columns, queued, Kind.W)
        - _of(columns, kept, Kind.OFFLOAD)
        - _of(columns, _received(columns, arriving, Kind.SEND_B), Kind.B, Kind.I)
    )
    host_start, host_end = _of(columns, kept, Kind.OFFLOAD), -_of(columns, kept, Kind.FETCH)
    task, nothing = np.arange(len(columns)), np.zeros(len(columns))
    return _rows(
        (task, columns.rank, start, end),
        (task, columns.peer, arriving, nothing),
        (task, host_tier[columns.rank], host_start, host_end),
    )


def _of(columns: Columns, values: Floats, *kinds: Kind) -> Floats:
    """The values of tasks of these kinds, 0 of others."""
    return np.where(columns.are(*kinds), values, 0.0)


def _received(columns: Columns, message_bytes: Floats, kind: Kind) -> Floats:
    """By task: the bytes that a message of this kind brings to its rank, for its stage and micro-batch."""
    sent = columns.are(kind)
    return look_up(columns.there()[sent], message_bytes[sent], columns.here())


def _rows(*parts: tuple[Longs, Longs, Floats, Floats]) -> Memory:
    """One part after another, without rows that do nothing."""
    tasks, tiers, starts, ends = (np.concatenate(column) for column in zip(*parts, strict=True))
    kept = (starts != 0) | (ends != 0)
    return Memory(tasks[kept].astype(np.int32), tiers[kept].astype(np.int32), starts[kept], ends[kept])
