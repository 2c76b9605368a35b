"""Timelines as Chrome trace events, which ui.perfetto.dev and chrome://tracing open.

A rank is a process and a stream a thread. Messages have arrows, from what made them over themselves to what waited for
them, and memories are counters. The format: "Trace Event Format", Google, the events X, M, C, s, t and f.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grainline.documents import write_atomically
from grainline.schedule.actions import SENDS
from grainline.schedule.timeline import Timeline
from grainline.schedule.views.causes import Causes
from grainline.schedule.views.draw_colours import WORDS, name_of

Event = dict[str, Any]
MICRO = 1e6  # the format counts in microseconds


def save(timeline: Timeline, path: str | Path) -> None:
    """Write the trace as JSON."""
    write_atomically(Path(path), json.dumps(trace(timeline), ensure_ascii=False, separators=(",", ":")))


def trace(timeline: Timeline) -> dict[str, Any]:
    """The trace as plain values, for JSON."""
    threads = _threads(timeline)
    events = [
        *_names(timeline, threads),
        *_slices(timeline, threads),
        *_arrows(timeline, threads),
        *_counters(timeline),
    ]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"name": timeline.name, "how": timeline.how, "makespan_seconds": timeline.makespan},
    }


def _threads(timeline: Timeline) -> list[int]:
    """The thread of each task: its stream, or a further lane of it where tasks overlap, as threads can't show that."""
    lanes: dict[tuple[int, int], list[float]] = defaultdict(list)  # until when each lane is taken
    threads = [0] * len(timeline)
    for task in sorted(range(len(timeline)), key=lambda i: (timeline.start[i], timeline.end[i])):
        free_at = lanes[int(timeline.rank[task]), int(timeline.stream[task])]
        lane = next((i for i, free in enumerate(free_at) if free <= timeline.start[task]), len(free_at))
        free_at[lane : lane + 1] = [float(timeline.end[task])]
        threads[task] = int(timeline.stream[task]) + lane * len(timeline.streams)
    return threads


def _names(timeline: Timeline, threads: list[int]) -> Iterator[Event]:
    for rank in range(timeline.ranks):
        yield {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": timeline.row(rank)}}
        yield {"ph": "M", "name": "process_sort_index", "pid": rank, "args": {"sort_index": rank}}
    for rank, thread in sorted({(int(r), t) for r, t in zip(timeline.rank, threads, strict=True)}):
        lane, stream = divmod(thread, len(timeline.streams))
        name = timeline.streams[stream] + (f" ({lane + 1})" if lane else "")
        yield {"ph": "M", "name": "thread_name", "pid": rank, "tid": thread, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": rank, "tid": thread, "args": {"sort_index": thread}}


def _slices(timeline: Timeline, threads: list[int]) -> Iterator[Event]:
    for i, action in enumerate(timeline.actions):
        about = {"stage": action.stage, "microbatch": action.microbatch, "peer": action.peer}
        yield {
            "ph": "X",
            "name": str(action),
            "cat": WORDS[name_of(action.kind)],
            "pid": int(timeline.rank[i]),
            "tid": threads[i],
            "ts": float(timeline.start[i]) * MICRO,
            "dur": float(timeline.end[i] - timeline.start[i]) * MICRO,
            "args": {key: value for key, value in about.items() if value >= 0},
        }


def _arrows(timeline: Timeline, threads: list[int]) -> Iterator[Event]:
    """An arrow starts, steps and ends inside the slices that it joins, so at their beginnings."""
    causes = Causes.of(timeline)
    for message, action in enumerate(timeline.actions):
        if action.kind not in SENDS:
            continue
        chain = (causes.producer(message), message, causes.consumer(message))
        tasks = [task for task in chain if task is not None]
        for i, task in enumerate(tasks):
            phase = "s" if i == 0 else "f" if i == len(tasks) - 1 else "t"
            yield {
                "ph": phase,
                "id": message,
                "name": "message",
                "cat": "message",
                "pid": int(timeline.rank[task]),
                "tid": threads[task],
                "ts": float(timeline.start[task]) * MICRO,
                **({"bp": "e"} if phase == "f" else {}),
            }


def _counters(timeline: Timeline) -> Iterator[Event]:
    for series in timeline.memory:
        for seconds, held in zip(series.seconds, series.bytes, strict=True):
            yield {
                "ph": "C",
                "name": series.tier,
                "pid": timeline.ranks,
                "ts": float(seconds) * MICRO,
                "args": {"bytes": float(held)},
            }
    if timeline.memory:
        yield {"ph": "M", "name": "process_name", "pid": timeline.ranks, "args": {"name": "memory"}}
        yield {"ph": "M", "name": "process_sort_index", "pid": timeline.ranks, "args": {"sort_index": timeline.ranks}}
