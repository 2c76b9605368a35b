"""What a step came to in time: each rank's own notes, put on one clock and together as a Timeline."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from grainline.parallel.pipeline.transport import Message
from grainline.schedule import Action, Schedule, Timeline
from grainline.schedule.actions import COLLECTIVES, COPIES, RECEIVES, SENDS, Kind
from grainline.schedule.dependencies import Stream

ROUNDS = 10
"""Messages to and fro, of which the quickest tells the offset of two clocks."""


@dataclass(frozen=True)
class Span:
    """When one entry of a rank's list began and ended, in seconds on that rank's clock.

    Of a message: when its end was posted, and once more, of a receive, the wait for it, where it was used.
    """

    action: Action
    start: float
    end: float


def clock_offset(rank: int, members: Sequence[int], group: dist.ProcessGroup) -> float:
    """Seconds by which this rank's `time.perf_counter` is ahead of rank 0's: of several messages to and fro, half the
    quickest round trip bounds the error. All ranks of the pipeline must call this; `members` are places in `group`.
    """
    now = torch.zeros(1, dtype=torch.float64)
    best, offset = float("inf"), 0.0
    for _ in range(ROUNDS):
        if rank == 0:
            for other in members[1:]:
                group.recv([now], other, 0).wait()
                now[0] = time.perf_counter()
                group.send([now], other, 0).wait()
        else:
            asked = time.perf_counter()
            group.send([now], members[0], 0).wait()
            group.recv([now], members[0], 0).wait()
            answered = time.perf_counter()
            if answered - asked < best:
                best, offset = answered - asked, (asked + answered) / 2 - now.item()
    return offset


def timeline(schedule: Schedule, spans: Sequence[Sequence[Span]], offsets: Sequence[float]) -> Timeline:
    """The measured timeline of a step, from the notes of all ranks.

    A message begins when both of its ends have posted it, and ends when its receiver takes it, which may be later than
    it came. A collective is noted by each rank that takes part, when it ran there.
    """
    begin = min((s.start - offset for of_rank, offset in zip(spans, offsets, strict=True) for s in of_rank), default=0)
    sent: dict[Message, tuple[int, Span]] = {}
    posted: dict[Message, float] = {}
    taken: dict[Message, float] = {}
    rows: list[tuple[Action, int, Stream, float, float]] = []
    for rank, (of_rank, offset) in enumerate(zip(spans, offsets, strict=True)):
        for span in of_rank:
            action, start, end = span.action, span.start - offset - begin, span.end - offset - begin
            if action.kind in SENDS:
                sent[Message.of(rank, action)] = rank, Span(action, start, end)
            elif action.kind in RECEIVES:  # noted twice: when it was posted, and when it was waited for
                message = Message.of(rank, action)
                posted.setdefault(message, start)
                taken[message] = end
            else:
                rows.append((action, rank, Stream(_stream(action.kind), rank), start, end))
    for message, (rank, span) in sent.items():
        stream = Stream("forward" if message.forward else "backward", rank, message.to)
        start = max(span.start, posted.get(message, span.start))
        rows.append((span.action, rank, stream, start, max(start, taken.get(message, span.end))))
    rows.sort(key=lambda row: (row[3], row[1]))
    streams = sorted({row[2] for row in rows})
    place = {stream: i for i, stream in enumerate(streams)}
    return Timeline(
        name=schedule.name,
        how="measured",
        ranks=schedule.ranks,
        streams=tuple(f"{s.what} {s.rank}" + (f"→{s.to}" if s.to >= 0 else "") for s in streams),
        actions=tuple(row[0] for row in rows),
        rank=np.array([row[1] for row in rows], np.int32),
        stream=np.array([place[row[2]] for row in rows], np.int32),
        start=np.array([row[3] for row in rows]),
        end=np.array([row[4] for row in rows]),
    )


def _stream(kind: Kind) -> str:
    return "collective" if kind in COLLECTIVES else "copy" if kind in COPIES else "compute"
