"""Whether a TaskGraph's columns hold together: the engines trust them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.simulator.graph import Ints, Ragged, TaskGraph


def check_graph(graph: TaskGraph) -> None:
    """Raises ScheduleError with the first thing that is wrong: which task, which column, which value."""
    for problem in _problems(graph):
        raise ScheduleError(problem)


def _problems(graph: TaskGraph) -> Iterator[str]:
    n = len(graph)
    lengths = {
        "seconds": len(graph.seconds),
        "bytes": len(graph.bytes),
        "crosses": len(graph.crosses),
        "needs": len(graph.needs),
        "actions": len(graph.actions),
        "rank": len(graph.rank),
    }
    for name, length in lengths.items():
        if length != n:
            yield f"`{name}` is of {length} tasks, `stream` of {n}"
    for name, column in (("seconds", graph.seconds), ("bytes", graph.bytes)):
        for task in _where(~((column >= 0) & np.isfinite(column))):
            yield f"{graph.name(task)} has {column[task]} {name}: must be 0 or more, and finite"
    for task in _outside(graph.stream, len(graph.streams)):
        yield f"{graph.name(task)} is on stream {graph.stream[task]}, of {len(graph.streams)}"
    for task in _where(graph.rank < 0):
        yield f"{graph.name(task)} is on rank {graph.rank[task]}"
    yield from _problems_of_lists(graph, "crosses", graph.crosses, len(graph.links), "link")
    yield from _problems_of_lists(graph, "needs", graph.needs, n, "task")
    yield from _problems_of_resources(graph)
    yield from _problems_of_memory(graph)


def _problems_of_lists(graph: TaskGraph, name: str, lists: Ragged, count: int, what: str) -> Iterator[str]:
    offsets = lists.offsets
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(lists.values) or (np.diff(offsets) < 0).any():
        yield f"`{name}` has offsets that don't rise from 0 to {len(lists.values)}"
        return
    for at in _outside(lists.values, count):
        task = int(np.searchsorted(offsets, at, side="right")) - 1
        yield f"{graph.name(task)} {name} {what} {lists.values[at]}, of {count}"


def _problems_of_resources(graph: TaskGraph) -> Iterator[str]:
    for link in graph.links:
        if not 0 < link.bytes_per_second < float("inf"):
            yield f"link {link.name!r} carries {link.bytes_per_second} bytes per second: must be above 0, and finite"
    if len(graph.base_bytes) != len(graph.tiers):
        yield f"`base_bytes` is of {len(graph.base_bytes)} tiers, of {len(graph.tiers)}"
    for tier, base in zip(graph.tiers, graph.base_bytes.tolist(), strict=True):
        if not 0 <= base < float("inf"):
            yield f"{tier.name} holds {base} bytes from the beginning: must be 0 or more, and finite"
        if tier.capacity_bytes is not None and not base <= tier.capacity_bytes:
            yield f"{tier.name} holds {base:,.0f} bytes from the beginning, and has room for {tier.capacity_bytes:,.0f}"
    names = Counter([*graph.streams, *(link.name for link in graph.links)])
    for one in graph.interference:
        if not 0 <= one.stream < len(graph.streams):
            yield f"interference with stream {one.stream}, of {len(graph.streams)}"
        if names[one.by] != 1:
            yield f"interference by {one.by!r}: {names[one.by] or 'no'} streams and links have that name"
        if not 0 < one.speed < float("inf"):
            yield f"interference by {one.by!r} leaves a speed of {one.speed}: must be above 0, and finite"


def _problems_of_memory(graph: TaskGraph) -> Iterator[str]:
    memory = graph.memory
    if not len(memory.task) == len(memory.tier) == len(memory.start_bytes) == len(memory.end_bytes):
        yield "the columns of `memory` differ in length"
        return
    for row in _outside(memory.task, len(graph)):
        yield f"`memory` names task {memory.task[row]}, of {len(graph)}"
    for row in _outside(memory.tier, len(graph.tiers)):
        yield f"{graph.name(memory.task[row])} takes memory of tier {memory.tier[row]}, of {len(graph.tiers)}"
    for row in _where(~(np.isfinite(memory.start_bytes) & np.isfinite(memory.end_bytes))):
        yield f"{graph.name(memory.task[row])} takes {memory.start_bytes[row]}, {memory.end_bytes[row]} bytes"
    for row in _where(memory.end_bytes > 0):
        yield (
            f"{graph.name(memory.task[row])} takes {memory.end_bytes[row]:,.0f} bytes at its end: "
            "memory is taken at a start, so that a task that finds no room can wait"
        )
    pairs = memory.task.astype(np.int64) * max(1, len(graph.tiers)) + memory.tier
    if len(np.unique(pairs)) != len(pairs):
        yield "`memory` has two rows of one task and tier: add them up"


def _outside(values: Ints, count: int) -> list[int]:
    return _where((values < 0) | (values >= count))


def _where(is_wrong: NDArray[np.bool_]) -> list[int]:
    return [int(i) for i in np.flatnonzero(is_wrong)[:1]]
