"""The rows of a timeline's picture: one per rank, with a box per action or, where they are too narrow, with shares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grainline._canvas import Bars, Canvas, Curve, Words, text_width
from grainline._figure import Scale
from grainline._words import percent, span
from grainline.schedule.actions import COMPUTE, Kind
from grainline.schedule.simulator.graph import Floats
from grainline.schedule.timeline import Timeline
from grainline.schedule.views.draw_colours import lane_of, name_of

Indices = NDArray[np.integer[Any]]
MOST_ROWS = 128  # more ranks than this: every so many are shown
MOST_BOXES = 30_000  # more than this: shares of the time instead
NARROWEST = 0.4  # pixels; boxes narrower than this, by their median: likewise
STEP = 3.0  # pixels for which shares are given
LANE = 4.0  # height of messages, collectives and copies
TITLED = 600  # boxes up to which each tells on hovering what it is


@dataclass(frozen=True)
class Rows:
    """Where the ranks are drawn."""

    ranks: Indices
    height: float
    gap: float
    lanes: tuple[str, ...]  # thin ones under each rank

    @property
    def pitch(self) -> float:
        return self.height + LANE * len(self.lanes) + self.gap

    @property
    def total(self) -> float:
        return self.pitch * len(self.ranks)


def rows_of(timeline: Timeline, messages: bool) -> Rows:
    """Which ranks are shown, and how high each row is."""
    shown = np.unique(np.linspace(0, timeline.ranks - 1, min(timeline.ranks, MOST_ROWS)).astype(np.int32))
    lanes: tuple[str, ...] = ()
    if messages:
        found = {lane_of(a.kind) for a in timeline.actions}
        lanes = tuple(lane for lane in ("forward", "backward", "collective", "copy") if lane in found)
    height = float(np.clip(400 / max(1, len(shown)), 5, 24))
    return Rows(shown, height, 2.0 if height >= 10 else 1.0, lanes)


def draw_rows(canvas: Canvas, timeline: Timeline, rows: Rows, x: Scale, top: float) -> float:
    """All ranks from `top` down; returns where they end."""
    busy = timeline.busy_seconds() / (timeline.makespan or 1.0)
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n * rows.pitch >= 13 or n >= len(rows.ranks))
    kinds = np.array([name_of(a.kind) for a in timeline.actions] or [""], dtype=object)[: len(timeline)]
    compute = np.array([a.kind in COMPUTE for a in timeline.actions], dtype=bool)
    boxes = compute & np.isin(timeline.rank, rows.ranks)
    pixels = (timeline.end - timeline.start) * (x.end - x.start) / (x.high - x.low)
    as_shares = boxes.any() and (boxes.sum() > MOST_BOXES or np.median(pixels[boxes]) < NARROWEST)
    numbers = _numbers_fit(timeline, boxes, pixels, rows.height)
    titled = boxes.sum() <= TITLED
    for i, rank in enumerate(rows.ranks):
        y = top + i * rows.pitch
        if i % every == 0:
            middle = y + rows.height / 2 + 4
            canvas.add(Words(x.start - 6, middle, timeline.row(int(rank)), "muted", anchor="end"))
            canvas.add(Words(x.end + 8, middle, percent(busy[rank]), "muted"))
        whole = np.array([x(timeline.makespan) - x.start])
        canvas.add(Bars(np.array([x.start]), whole + 0.7, y, rows.height, "track"))
        mine = np.flatnonzero(boxes & (timeline.rank == rank))
        mine = mine[np.argsort(timeline.start[mine], kind="stable")]
        if as_shares:
            canvas.add(*_shares(timeline, mine, kinds, x, y, rows.height))
        else:
            canvas.add(*_boxes(timeline, mine, x, y, rows.height, titled))
            if numbers:
                canvas.add(*_numbers(timeline, mine, x, y, rows.height))
        y += rows.height
        for lane in rows.lanes:
            mine = np.flatnonzero(~compute & (timeline.rank == rank) & (kinds == lane))
            if len(mine):
                left, right = _ends(timeline, mine, x)
                canvas.add(Bars(left, right - left, y + 1, LANE - 1, lane))
            y += LANE
    bottom = top + rows.total
    if len(rows.ranks) < timeline.ranks:
        what = "rows" if timeline.rows else "ranks"
        canvas.add(Words(x.start, bottom + 10, f"{len(rows.ranks)} of {timeline.ranks} {what} are shown", "muted"))
        bottom += 16
    if as_shares:
        canvas.add(Words(x.start, bottom + 10, "height: share of the time that goes to each kind", "muted"))
        bottom += 16
    return bottom


def _ends(timeline: Timeline, tasks: Indices, x: Scale) -> tuple[Floats, Floats]:
    scale = (x.end - x.start) / (x.high - x.low)
    return x.start + timeline.start[tasks] * scale, x.start + timeline.end[tasks] * scale


def _boxes(timeline: Timeline, tasks: Indices, x: Scale, y: float, height: float, titled: bool) -> Iterator[Bars]:
    left, right = _ends(timeline, tasks, x)
    stages = stages_of(timeline, int(timeline.rank[tasks[0]])) if len(tasks) else ()
    colours = np.array([name_of(a.kind, a.stage, stages) for a in (timeline.actions[i] for i in tasks)], dtype=object)
    for colour in dict.fromkeys(colours):
        here = np.flatnonzero(colours == colour)
        titles = tuple(_told(timeline, tasks[i]) for i in here) if titled else ()
        yield Bars(left[here], (right - left)[here], y, height, colour, titles)


def _told(timeline: Timeline, task: int) -> str:
    start, end = timeline.start[task], timeline.end[task]
    row = timeline.row(int(timeline.rank[task]))
    return f"{row}: {timeline.actions[task]}, {span(end - start)} from {span(start)} on"


def stages_of(timeline: Timeline, rank: int) -> tuple[int, ...]:
    """Stages that a rank computes, ascending."""
    tasks = np.flatnonzero(timeline.rank == rank)
    found = (timeline.actions[i] for i in tasks)
    return tuple(sorted({a.stage for a in found if a.kind in COMPUTE and a.stage >= 0}))


def _font(height: float) -> float:
    return min(11.0, 0.62 * height)


def _numbers_fit(timeline: Timeline, boxes: NDArray[np.bool_], pixels: Floats, height: float) -> bool:
    """Whether most forwards and backwards have room for theirs; numbers in a few of them would only disturb."""
    stages = boxes & np.array([a.stage >= 0 and a.kind is not Kind.UPDATE for a in timeline.actions], dtype=bool)
    most = max((a.microbatch for a in timeline.actions), default=0)
    return bool(height >= 10 and stages.any() and np.median(pixels[stages]) >= text_width(str(most), _font(height)) + 2)


def _numbers(timeline: Timeline, tasks: Indices, x: Scale, y: float, height: float) -> Iterator[Words]:
    left, right = _ends(timeline, tasks, x)
    font = _font(height)
    for i, a, b in zip(tasks, left, right, strict=True):
        number = timeline.actions[i].microbatch
        if number >= 0 and b - a >= text_width(str(number), font) + 1:
            yield Words((a + b) / 2 - 0.3, y + height / 2 + 0.36 * font, str(number), "box-ink", font, "middle")


def _shares(
    timeline: Timeline, tasks: Indices, kinds: NDArray[np.object_], x: Scale, y: float, height: float
) -> Iterator[Curve]:
    """The share of each kind in every `STEP` pixels, one on top of another from the row's foot."""
    edges = np.linspace(x.low, x.high, 1 + max(1, int((x.end - x.start) / STEP)))
    pixels = np.array([x(e) for e in edges])
    foot = np.full(2 * len(edges) - 2, y + height)
    steps = np.repeat(pixels, 2)[1:-1]
    stacked = np.zeros(len(edges) - 1)
    layers = []
    for colour in dict.fromkeys(kinds[tasks]):
        mine = tasks[kinds[tasks] == colour]
        start, end = timeline.start[mine], timeline.end[mine]
        ends = np.stack([start, end], 1).ravel()
        done = np.stack([np.cumsum(end - start) - (end - start), np.cumsum(end - start)], 1).ravel()
        stacked = stacked + np.diff(np.interp(edges, ends, done, left=0.0)) / np.diff(edges)
        level = np.rint(np.minimum(stacked, 1) * 16) / 16  # so that equal neighbours become one step
        layers.append(Curve(steps, foot - np.repeat(level, 2) * height, colour, base=y + height))
    yield from reversed(layers)
