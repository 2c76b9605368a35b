"""Timelines as pictures: a row per rank, a box per action, and the memory that it took underneath."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from grainline._canvas import Bars, Canvas, Curve, Words, text_width
from grainline._figure import Scale
from grainline._words import percent, size, span
from grainline.documents import GrainlineError, make_folder, write_atomically
from grainline.schedule.timeline import Timeline
from grainline.schedule.views.draw_colours import PALETTE, legend
from grainline.schedule.views.draw_memory import draw_memory
from grainline.schedule.views.draw_rows import draw_rows, rows_of, stages_of

LEFT, RIGHT = 58.0, 62.0  # margins in pixels, for the names of rows and for what they come to


def draw(
    timeline: Timeline,
    path: str | Path | None = None,
    *,
    messages: bool = False,
    memory: bool = True,
    width: float = 960.0,
) -> str:
    """SVG of one timeline: boxes by kind and stage with their micro-batch where it fits, busy shares, time, memory.

    `messages` adds thin rows with messages (at their senders), collectives and copies. Where boxes would be narrower
    than pixels, a row shows the share of each kind over time. With `path` it is written there, too, as `.svg` or
    `.png`; GrainlineError for other names.
    """
    return _finish(_picture((timeline,), messages, memory, width), _description(timeline), path)


def compare(
    timelines: Sequence[Timeline],
    path: str | Path | None = None,
    *,
    messages: bool = False,
    memory: bool = False,
    width: float = 960.0,
) -> str:
    """SVG of several timelines one above another on one axis of time; the first is what the others are held against."""
    if not timelines:
        raise ValueError("no timelines to compare")
    canvas = _picture(tuple(timelines), messages, memory, width)
    return _finish(canvas, ". ".join(_description(t) for t in timelines), path)


def _picture(timelines: tuple[Timeline, ...], messages: bool, memory: bool, width: float) -> Canvas:
    canvas = Canvas(width, 0.0, PALETTE)
    longest = max(t.makespan for t in timelines)
    x = Scale(0.0, longest or 1.0, LEFT, width - RIGHT)
    y = _legend(canvas, timelines, messages, 14.0)
    for timeline in timelines:
        first = timelines[0] if len(timelines) > 1 else None
        y = _title(canvas, timeline, first, y)
        y = draw_rows(canvas, timeline, rows_of(timeline, messages), x, y)
        if memory and timeline.memory:
            y = draw_memory(canvas, timeline, x, y + 6)
        y += 10
    canvas.height = _axis(canvas, x, y - 6)
    return canvas


def _finish(canvas: Canvas, description: str, path: str | Path | None) -> str:
    svg = canvas.svg(description)
    if path is not None:
        path = Path(path)
        if path.suffix == ".png":
            make_folder(path.parent)
            path.write_bytes(canvas.png())
        elif path.suffix == ".svg":
            write_atomically(path, svg)
        else:
            raise GrainlineError(
                f"{path}: a timeline is drawn as .svg or .png. Choose a name that ends in one of them."
            )
    return svg


def _description(timeline: Timeline) -> str:
    return f"Timeline of {timeline.name}, {_facts(timeline)}"


def _facts(timeline: Timeline) -> str:
    parts = [f"{timeline.how}: {span(timeline.makespan)}", f"bubble {percent(timeline.bubble_fraction)}"]
    highest = max(timeline.memory, key=lambda m: m.peak_bytes, default=None)
    if highest is not None and highest.peak_bytes:
        parts.append(f"peak memory {size(highest.peak_bytes)} ({highest.tier})")
    return ", ".join(parts)


def _legend(canvas: Canvas, timelines: Sequence[Timeline], messages: bool, y: float) -> float:
    left = LEFT
    for colour, words in legend({a.kind for t in timelines for a in t.actions}, messages):
        if left + 15 + text_width(words, 11) > canvas.width - RIGHT:
            left, y = LEFT, y + 17
        canvas.add(Bars(np.array([left]), np.array([11.0]), y - 9, 10, colour))
        canvas.add(Words(left + 15, y, words, "muted"))
        left += 15 + text_width(words, 11) + 14
    if any(len(stages_of(t, rank)) > 1 for t in timelines for rank in range(min(t.ranks, 8))):
        canvas.add(Words(left, y, "darker: a rank's later stages", "muted"))
    return y + 12


def _title(canvas: Canvas, timeline: Timeline, first: Timeline | None, y: float) -> float:
    y += 14
    canvas.add(Words(LEFT, y, timeline.name, bold=True, size=13))
    facts = _facts(timeline)
    if first is not None and first is not timeline and first.makespan:
        facts += f", {timeline.makespan / first.makespan:.2f} × the time of {first.name}"
    canvas.add(Words(LEFT + 1.1 * text_width(timeline.name, 13) + 12, y, facts, "muted"))
    canvas.add(Words(canvas.width - RIGHT + 8, y, "busy", "muted"))
    return y + 8


def _axis(canvas: Canvas, x: Scale, y: float) -> float:
    canvas.add(Curve(np.array([x.start, x.end]), np.array([y, y]), "muted", width=1))
    unit, factor = next(
        u for u in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)) if x.high >= u[1] or u[0] == "ns"
    )
    for tick in x.ticks(8):
        canvas.add(Curve(np.full(2, x(tick)), np.array([y, y + 4]), "muted", width=1))
        canvas.add(Words(x(tick), y + 16, f"{tick / factor:.6g}", "muted", anchor="middle"))
    canvas.add(Words(x.end + 8, y + 16, unit, "muted"))
    return y + 24
