"""simulate: a TaskGraph played to its end, as a Timeline. `engine_py.py` says what that means, step by step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.simulator.check_graph import check_graph
from grainline.schedule.simulator.engine import Played, play
from grainline.schedule.simulator.graph import TaskGraph
from grainline.schedule.timeline import MemorySeries, Timeline

SHOWN = 8  # tasks of a ring that an error names


def simulate(graph: TaskGraph, name: str = "") -> Timeline:
    """When each task begins and ends, what memory is held over time, and how many bytes cross each link.

    Raises ScheduleError where a column doesn't hold, tasks wait for each other, or one wants more room than can ever be
    free.
    """
    check_graph(graph)
    played = play(graph)
    if not played.done.all():
        raise ScheduleError(_why_stuck(graph, played))
    return Timeline(
        name=name,
        how="simulated",
        ranks=int(graph.rank.max()) + 1 if len(graph) else 0,
        streams=graph.streams,
        actions=graph.actions,
        rank=graph.rank,
        stream=graph.stream,
        start=played.start,
        end=played.end,
        memory=tuple(_memory(graph, played)),
        link_bytes=_link_bytes(graph),
    )


def _memory(graph: TaskGraph, played: Played) -> Iterator[MemorySeries]:
    """Of each tier: what it holds from 0 s on, and after every effect."""
    row, at_end = played.effects >> 1, (played.effects & 1).astype(bool)
    memory = graph.memory
    task = memory.task[row]
    seconds = np.where(at_end, played.end[task], played.start[task])
    change = np.where(at_end, memory.end_bytes[row], memory.start_bytes[row])
    tier = memory.tier[row]
    by_tier = np.argsort(tier, kind="stable")
    ends = np.cumsum(np.bincount(tier, minlength=len(graph.tiers)))
    for i, one in enumerate(graph.tiers):
        mine = by_tier[ends[i - 1] if i else 0 : ends[i]]
        held = graph.base_bytes[i] + np.cumsum(np.concatenate([[0.0], change[mine]]))
        yield MemorySeries(one.name, np.concatenate([[0.0], seconds[mine]]), held, one.capacity_bytes)


def _link_bytes(graph: TaskGraph) -> dict[str, float]:
    crossed = np.repeat(graph.bytes, np.diff(graph.crosses.offsets))
    total = np.bincount(graph.crosses.values, weights=crossed, minlength=len(graph.links))
    found: dict[str, float] = defaultdict(float)
    for link, moved in zip(graph.links, total.tolist(), strict=True):
        found[link.name] += moved
    return dict(found)


def _why_stuck(graph: TaskGraph, played: Played) -> str:
    """In words: a task that finds no room, or tasks that wait for each other in a ring, or whoever waits."""
    heads = _heads(graph, played)
    for task in heads:
        if all(played.done[need] for need in graph.needs[task]):
            return _no_room(graph, played, task)
    names = [graph.name(task) for task in _ring(graph, played, heads[0])]
    if len(names) > SHOWN:
        names = [*names[:SHOWN], f"… ({len(names) - SHOWN} more)"]
    ring = ", which waits for ".join([*names, names[0]])
    return f"tasks wait for each other: {ring} (streams that are stuck: {len(heads)})"


def _heads(graph: TaskGraph, played: Played) -> list[int]:
    """The first task of each stream that hasn't ended; none of them can have begun."""
    first: dict[int, int] = {}
    for task in np.flatnonzero(~played.done).tolist():
        first.setdefault(int(graph.stream[task]), task)
    return sorted(first.values())


def _no_room(graph: TaskGraph, played: Played, task: int) -> str:
    memory = graph.memory
    row, at_end = played.effects >> 1, (played.effects & 1).astype(bool)
    change = np.where(at_end, memory.end_bytes[row], memory.start_bytes[row])
    held = graph.base_bytes + np.bincount(memory.tier[row], weights=change, minlength=len(graph.tiers))
    short = (-np.inf, "")
    for one in np.flatnonzero(memory.task == task).tolist():
        tier, wanted = graph.tiers[memory.tier[one]], memory.start_bytes[one]
        if wanted > 0 and tier.capacity_bytes is not None:
            holds = held[memory.tier[one]]
            words = (
                f"{graph.name(task)} wants {wanted:,.0f} bytes of {tier.name}, which holds {holds:,.0f} "
                f"of {tier.capacity_bytes:,.0f} when nothing is left that could free any"
            )
            short = max(short, (holds + wanted - tier.capacity_bytes, words))
    return short[1]


def _ring(graph: TaskGraph, played: Played, task: int) -> list[int]:
    """Tasks each of which waits for the next, and the last for the first: whoever waits leads there, as `task` does."""
    before: dict[int, int] = {}  # on its stream
    last: dict[int, int] = {}
    for one, stream in enumerate(graph.stream.tolist()):
        if stream in last:
            before[one] = last[stream]
        last[stream] = one
    seen: dict[int, int] = {}
    way: list[int] = []
    while task not in seen:
        seen[task] = len(way)
        way.append(task)
        waits_for = [*graph.needs[task].tolist(), *([before[task]] if task in before else [])]
        task = next(other for other in waits_for if not played.done[other])
    return way[seen[task] :]
