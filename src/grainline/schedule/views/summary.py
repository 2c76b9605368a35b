"""A timeline in words: how busy each rank was, what it waited for, and what binds the step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from grainline._words import join, percent, size, span
from grainline.schedule.actions import COMPUTE, COPIES, SENDS, Action
from grainline.schedule.timeline import MemorySeries, Timeline
from grainline.schedule.views.causes import Causes

TOLD = 0.01  # waits of less than this share of the step aren't told
UNEXPLAINED = "room or runtime"
MOST_ROWS, FEW_ROWS = 32, 12  # of more ranks than the first, only the least busy are told of


@dataclass(frozen=True)
class Wait:
    """Idle time of a rank, summed over all its actions that waited for the same thing.

    `source` is what they waited for: "rank 3", "messages from rank 3", "collective C1", "end of the step", or, where no
    action explains it, "room or runtime".
    """

    source: str
    seconds: float
    longest: Action | None  # the action that waited longest; None for the end of the step
    longest_seconds: float


@dataclass(frozen=True)
class RankSummary:
    """One rank's step."""

    rank: int
    busy_fraction: float
    waits: tuple[Wait, ...]  # the longest first; with `busy_fraction` they make up the whole step


def rank_summaries(timeline: Timeline) -> tuple[RankSummary, ...]:
    """Of each rank: its busy share of the step, and its waits."""
    causes = Causes.of(timeline)
    busy = timeline.busy_seconds() / (timeline.makespan or 1.0)
    return tuple(RankSummary(r, float(busy[r]), _waits(timeline, causes, r)) for r in range(timeline.ranks))


def critical_path(timeline: Timeline) -> Mapping[str, float]:
    """Seconds of the makespan by what the step was waiting for: the longest chain of causes, from its end back.

    Keys are "computing on rank 3", "messages 1→2", "collective C1", "copies OFFLOAD", and "waiting" for what no action
    explains (room in memory, or overhead of a real run). The values add up to the makespan.
    """
    causes = Causes.of(timeline)
    found: dict[str, float] = defaultdict(float)
    task = int(timeline.end.argmax()) if len(timeline) else None
    until = timeline.makespan
    seen: set[int] = set()
    while task is not None and task not in seen:
        seen.add(task)
        start = min(float(timeline.start[task]), until)
        found["waiting"] += max(0.0, until - float(timeline.end[task]))
        found[_where(timeline, task)] += min(until, float(timeline.end[task])) - start
        until = start
        task = causes.binding(task)
    found["waiting"] += until
    return dict(sorted(((k, v) for k, v in found.items() if v > causes.slack), key=lambda item: -item[1]))


def summary(timeline: Timeline) -> str:
    """A few lines for a terminal: the step, what binds it, one line per rank (or of many, the least busy), memories."""
    whole = timeline.makespan or 1.0
    lines = [
        f"{timeline.name}, {timeline.how}: {span(timeline.makespan)}, bubble {percent(timeline.bubble_fraction)}",
        f"What binds, along the critical path: {binding(timeline)}.",
    ]
    rows: list[RankSummary] = list(rank_summaries(timeline))
    if len(rows) > MOST_ROWS:
        lines.append(f"The {FEW_ROWS} least busy of {len(rows)} ranks:")
        rows = sorted(rows, key=lambda row: row.busy_fraction)[:FEW_ROWS]
    own = {series.tier: series for series in timeline.memory}
    for row in rows:
        series = own.pop(f"rank {row.rank}", None)
        held = f", holds at most {_room(series)}" if series else ""
        lines.append(f"rank {row.rank}: busy {percent(row.busy_fraction)}{held}; {_told(row, whole)}")
    if len(timeline.memory) > len(own):  # the others' own memories have been told, or left out with their ranks
        own = {tier: series for tier, series in own.items() if not tier.startswith("rank ")}
    lines += [f"{tier} holds at most {_room(series)}" for tier, series in list(own.items())[:FEW_ROWS]]
    return "\n".join(lines)


def binding(timeline: Timeline) -> str:
    """The critical path by its kinds, with the largest part of each, in words."""
    whole = timeline.makespan or 1.0
    kinds: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for what, seconds in critical_path(timeline).items():
        kind, _, where = what.partition(" ")
        kinds[kind].append((seconds, where))
    told = []
    for kind, parts in sorted(kinds.items(), key=lambda item: -sum(s for s, _ in item[1])):
        most, where = max(parts)
        words = f"{percent(sum(s for s, _ in parts) / whole)} {kind}"
        told.append(words + (f" {where}" if len(parts) == 1 else f" (most {where}, {percent(most / whole)})"))
    return join([words.strip() for words in told]) if told else "nothing"


def _told(row: RankSummary, whole: float) -> str:
    waits = [wait for wait in row.waits if wait.seconds >= TOLD * whole]
    told: list[str] = []
    for wait in waits:
        if wait.longest is not None:
            most = "" if wait.longest_seconds >= 0.999 * wait.seconds else f", {percent(wait.longest_seconds / whole)}"
            example = "" if told else f" (longest before {wait.longest}{most})"
            told.append(f"{percent(wait.seconds / whole)} for {wait.source}{example}")
    parts = [f"waits {', '.join(told)}"] if told else []
    parts += [f"done {percent(wait.seconds / whole)} before the end" for wait in waits if wait.longest is None]
    return "; ".join(parts) or "never waits"


def _room(series: MemorySeries) -> str:
    return size(series.peak_bytes) + (f" of {size(series.capacity_bytes)}" if series.capacity_bytes else "")


def _waits(timeline: Timeline, causes: Causes, rank: int) -> tuple[Wait, ...]:
    gaps: dict[str, list[tuple[float, Action]]] = defaultdict(list)
    free = 0.0
    for task in causes.compute[rank].tolist():
        action, start = timeline.actions[task], float(timeline.start[task])
        for source, seconds in _gap(timeline, causes, task, free, start).items():
            if seconds > causes.slack:
                gaps[source].append((seconds, action))
        free = max(free, float(timeline.end[task]))
    waits = [Wait(source, sum(s for s, _ in found), *max(found)[::-1]) for source, found in gaps.items()]
    if (rest := timeline.makespan - free) > causes.slack:
        waits.append(Wait("end of the step", rest, None, rest))
    return tuple(sorted(waits, key=lambda wait: -wait.seconds))


def _gap(timeline: Timeline, causes: Causes, task: int, free: float, start: float) -> dict[str, float]:
    """The seconds from `free` to `start` by what they were waiting for: along the chain of causes, to a compute."""
    found: dict[str, float] = defaultdict(float)
    late = [i for i in causes.inputs(task) if timeline.end[i] > free + causes.slack]
    cause = max(late, key=lambda i: timeline.end[i], default=None)
    until = start
    seen: set[int] = set()
    while cause is not None and cause not in seen and until > free + causes.slack:
        seen.add(cause)
        action, rank = timeline.actions[cause], timeline.rank[cause]
        end = min(max(float(timeline.end[cause]), free), until)
        found[UNEXPLAINED] += until - end
        if action.kind in COMPUTE:
            found[f"rank {rank}"] += end - free
            return found
        until = min(max(float(timeline.start[cause]), free), end)
        found[f"messages from rank {rank}" if action.kind in SENDS else _where(timeline, cause)] += end - until
        cause = causes.binding(cause)
    found[UNEXPLAINED] += until - free
    return found


def _where(timeline: Timeline, task: int) -> str:
    action = timeline.actions[task]
    if action.kind in COMPUTE:
        return f"computing on rank {timeline.rank[task]}"
    if action.kind in SENDS:
        return f"messages {timeline.rank[task]}→{action.peer}"
    return f"copies {action.kind}" if action.kind in COPIES else f"collective {action.kind}"
