"""What a schedule's tasks do to memory.

F takes what its stage keeps, at its start: all of it, or its input alone where R computes the rest again (R then takes
the rest). B frees all of that at its end; I all but what it queues for W; W what was queued. OFFLOAD takes room at the
host at its start and frees the rank's at its end, FETCH the other way round. A message takes room at its receiver at
its start: F's own input counts as kept from F's start on, a gradient is freed at the end of the backward that uses it.
"""

from __future__ import annotations

import numpy as np

from grainline.schedule.actions import Kind
from grainline.schedule.columns import CODE, KINDS, Columns, Index, Longs
from grainline.schedule.simulator.graph import Floats, Memory
from grainline.schedule.simulator.stage_table import StageTable


def kept_by_forward(of: Columns, table: StageTable) -> Floats:
    """By task: what the F of its rank, stage and micro-batch keeps; 0 for tasks of no stage."""
    again = of.rows([Kind.R])
    by_place = Index(again, of.rank[again], of.stage[again], of.microbatch[again])
    is_again = by_place.first(of.rank, of.stage, of.microbatch) >= 0
    row = table.row(of.stage, of.rank)
    return np.where(is_again, table.input_bytes[row], table.kept_bytes[row])


def memory_of(of: Columns, table: StageTable, host_tier: Longs, message_bytes: Floats) -> Memory:
    """Rows for every task that takes or frees anything, from the columns of the tasks' first actions.

    Tier r is rank r's own, `host_tier[r]` its host's. `message_bytes` is by task, 0 for what is no message.
    """
    row = table.row(of.stage, of.rank)
    whole, queued, kept = table.kept_bytes[row], table.queued_bytes[row], kept_by_forward(of, table)
    input_bytes, gradient_bytes = (_received(of, message_bytes, kind) for kind in (Kind.SEND_F, Kind.SEND_B))
    none, task = np.zeros(len(of)), np.arange(len(of))
    at_start, at_end = [none] * len(KINDS), [none] * len(KINDS)
    at_start[CODE[Kind.F]] = kept - input_bytes
    at_start[CODE[Kind.R]] = whole - kept
    at_start[CODE[Kind.FETCH]] = kept
    at_end[CODE[Kind.OFFLOAD]] = -kept
    at_end[CODE[Kind.B]] = -whole - gradient_bytes
    at_end[CODE[Kind.I]] = queued - whole - gradient_bytes
    at_end[CODE[Kind.W]] = -queued
    return _rows(
        (task, of.rank, np.choose(of.kind, at_start), np.choose(of.kind, at_end)),
        (task, of.peer, message_bytes, none),
        (task, host_tier[of.rank], _of(of, kept, Kind.OFFLOAD), -_of(of, kept, Kind.FETCH)),
    )


def _of(of: Columns, values: Floats, kind: Kind) -> Floats:
    """The values of tasks of a kind, 0 of others."""
    return np.where(of.are([kind]), values, 0.0)


def _received(of: Columns, message_bytes: Floats, kind: Kind) -> Floats:
    """By task: the bytes that a message of this kind brings to its rank, for its stage and micro-batch; else 0."""
    sent = of.rows([kind])
    message = Index(sent, of.peer[sent], of.peer_stage[sent], of.microbatch[sent]).first(
        of.rank, of.stage, of.microbatch
    )
    return np.where(message >= 0, message_bytes[message], 0.0)


def _rows(*parts: tuple[Longs, Longs, Floats, Floats]) -> Memory:
    """One part after another, without rows that do nothing."""
    tasks, tiers, starts, ends = (np.concatenate(column) for column in zip(*parts, strict=True))
    kept = (starts != 0) | (ends != 0)
    return Memory(tasks[kept].astype(np.int32), tiers[kept].astype(np.int32), starts[kept], ends[kept])
