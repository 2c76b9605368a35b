"""The memory in a timeline's picture: what each held over time, and its capacity."""

from __future__ import annotations

import numpy as np

from grainline._canvas import Canvas, Curve, Words, fit
from grainline._figure import Scale
from grainline._words import size
from grainline.schedule.simulator.graph import Floats
from grainline.schedule.timeline import MemorySeries, Timeline

CHARTED = 8  # memories up to which each has a chart of its own
SHOWN = 8  # of more, in one chart: from the one with the highest peak to the one with the lowest


def draw_memory(canvas: Canvas, timeline: Timeline, x: Scale, y: float) -> float:
    """A chart per memory, or, of many, all in one, from `y` down; returns where they end."""
    memories = sorted(timeline.memory, key=lambda s: s.peak_bytes)
    many = len(memories) > CHARTED
    if many:
        memories = [memories[i] for i in np.linspace(0, len(memories) - 1, SHOWN).astype(int)]
    groups = [memories] if many else [[series] for series in timeline.memory]
    height = 90.0 if many else 30.0
    top = max(max(s.peak_bytes, s.capacity_bytes or 0.0) for s in timeline.memory) or 1.0
    end = timeline.makespan
    words = "memory"
    if many:
        words += f": {SHOWN} of {len(timeline.memory)}, from the highest peak to the lowest"
    if any(s.capacity_bytes for s in timeline.memory):
        words += f"{',' if many else ':'} dashed the capacity"
    canvas.add(Words(x.start, y + 10, words, "muted"))
    y += 17
    for group in groups:
        scale = Scale(0.0, top * 1.04, y + height, y)
        highest = group[-1]
        canvas.add(Curve(np.array([x.start, x(end)]), np.full(2, y + height), "muted", width=0.6))
        canvas.add(Curve(*_levels(highest, x, scale, end), "memory-area", base=y + height))
        for series in group:
            xs, ys = _levels(series, x, scale, end)
            canvas.add(Curve(xs, ys, "memory", width=1.2 if series is highest else 0.5))
        for capacity in sorted({s.capacity_bytes for s in group if s.capacity_bytes}):
            level = np.full(2, scale(capacity))
            canvas.add(Curve(np.array([x.start, x(end)]), level, "capacity", dashed=True, width=1.0))
        left, right = x.start - 6, canvas.width - x(end) - 8
        if not many:
            canvas.add(Words(left, y + height / 2 + 4, fit(highest.tier, 11, left), "muted", anchor="end"))
        place = max(scale(highest.peak_bytes) + 4, y + 9)
        canvas.add(Words(x(end) + 6, place, size(highest.peak_bytes), "memory"))
        if many:
            canvas.add(Words(x(end) + 6, place + 13, fit(highest.tier, 11, right), "muted"))
        y += height + 6
    return y


def _levels(series: MemorySeries, x: Scale, y: Scale, end: float) -> tuple[Floats, Floats]:
    """A step line; where a pixel has several changes, up to its highest level and down to its last."""
    if not len(series.seconds):
        return np.array([x.start, x(end)]), np.full(2, y(0.0))
    pixels = np.rint((x.start + series.seconds * (x.end - x.start) / (x.high - x.low)) * 2) / 2
    change = np.flatnonzero(np.diff(pixels, prepend=-1.0))  # the first change of each pixel
    highest = np.maximum.reduceat(series.bytes, change)
    after = series.bytes[np.append(change[1:], len(pixels)) - 1]
    before = np.concatenate([[0.0], after[:-1]])
    levels = np.stack([before, highest, after], 1).ravel()[1:]
    xs = np.repeat(pixels[change], 3)[1:]
    scale = (y.end - y.start) / (y.high - y.low)
    return np.append(xs, x(end)), y.start + np.append(levels, after[-1]) * scale
