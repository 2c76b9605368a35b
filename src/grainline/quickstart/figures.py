"""The report's figures: loss curves, bits per byte by part, the course of training, time, and all in one picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grainline._figure import Scale
from grainline._figure import coordinate as n
from grainline._progress import duration
from grainline._words import count, percent
from grainline.quickstart.facts import MODELS, Evaluation, Facts, read_facts
from grainline.quickstart.loads import has_loads, load_legend, load_panels
from grainline.quickstart.plot import LIGHT, Drawing, Panel, Point, fit, mark, spread, text
from grainline.quickstart.verdict import device, verdict
from grainline.quickstart.words import bits

Metrics = list[dict[str, Any]]


def series(model: str, evaluation: Evaluation) -> int:
    """The number of a model's colour, dash and shape."""
    known = MODELS.index(model) if model in MODELS else evaluation.models.index(model)
    return min(known, len(MODELS))


def points(metrics: Metrics, key: str, x: str = "tokens") -> list[Point]:
    """(x, value) of the lines that have a finite value for `key`."""
    found = [(line.get(x), line.get(key)) for line in metrics]
    return [(float(a), float(b)) for a, b in found if a is not None and b is not None and math.isfinite(b)]


def smooth(found: Sequence[Point], limit: int = 240) -> list[Point]:
    """A moving average over 1/40 of the points, thinned to about `limit` of them; the last one is kept."""
    half = len(found) // 80
    sums = [0.0]
    for _, y in found:
        sums.append(sums[-1] + y)
    curve = []
    for i, (x, _) in enumerate(found):
        first = i - min(half, i)
        last = min(2 * i - first, len(found) - 1)  # symmetric at the start, so that the first fall isn't bent
        curve.append((x, (sums[last + 1] - sums[first]) / (last + 1 - first)))
    return thin(curve, limit)


def thin(curve: Sequence[Point], limit: int = 240) -> list[Point]:
    """Every so many points, about `limit` in all; the last one is kept."""
    return list(curve[:: -max(1, -(-len(curve) // limit))][::-1])


def loss_curves(facts: Facts, width: float = 720, height: float = 340) -> Drawing:
    """Training and held-out loss of the trained models in bits per byte, over tokens, with the baselines as levels."""
    evaluation = facts.evaluation
    found = {model: points(lines, "bits_per_byte") for model, lines in facts.metrics.items()}
    curves = {model: smooth(curve) for model, curve in found.items() if curve}
    held_out = {model: points(facts.metrics[model], "validation_bits_per_byte") for model in curves}
    levels = {model: value for model, value in evaluation.totals().items() if model not in curves}
    left, right = 40, 88 if width > 500 else 74
    x = Scale(0, max((p[0] for curve in curves.values() for p in curve), default=1.0), left, width - right)
    y = Scale(*_bounds(curves, held_out, levels), height - 42, 22)
    panel = Panel(x, y)
    marks = [text(0, 12, "bits per byte", "muted"), panel.rows(lambda v: f"{v:.3g}"), panel.columns(count)]
    marks.append(text((left + width - right) / 2, height - 4, "tokens seen", "muted", "middle"))
    marks += [panel.level(value, f"s{series(model, evaluation)} thin") for model, value in levels.items()]
    for model in reversed(curves):  # the sparse model last, on top
        marks.append(panel.line(curves[model], f"s{series(model, evaluation)}"))
    for model in reversed(held_out):
        number = series(model, evaluation)
        for tokens, value in held_out[model]:
            told = f"{model}, {count(tokens)} tokens: {bits(value)} on held-out text"
            marks.append(mark(number, x(tokens), y(value), 3.6, told))
    ends = {model: (held_out[model] or curve)[-1][1] for model, curve in curves.items()} | levels
    for (model, _), place in zip(ends.items(), spread([y(v) for v in ends.values()], 15, 26, height - 46), strict=True):
        number = series(model, evaluation)
        marks.append(mark(number, width - right + 12, place, 4))
        marks.append(text(width - right + 21, place + 4, fit(model, right - 22), "strong"))
    label = "Loss curves in bits per byte: " + ", ".join(f"{model} ends at {bits(v)}" for model, v in ends.items())
    return Drawing(width, height, label, "".join(marks))


def _bounds(
    curves: dict[str, list[Point]], held_out: dict[str, list[Point]], levels: dict[str, float]
) -> tuple[float, float]:
    """Everything but the first 2 % of the curves, whose fall would leave no room for the rest."""
    values = [*levels.values(), *(v for found in held_out.values() for _, v in found)]
    for curve in curves.values():
        values += [v for _, v in curve[len(curve) // 50 :]]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.1
    return max(0.0, low - margin), high + margin


def part_dots(facts: Facts, width: float = 720) -> Drawing:
    """Bits per byte of every model on every part: one row per part, one shape per model."""
    evaluation, outline = facts.evaluation, facts.outline
    rows = evaluation.rows
    values = [v for m in evaluation.models for r in rows if (v := evaluation.value(m, r)) is not None]
    left = 110 if width > 500 else 96
    margin = 0.06 * (max(values) - min(values)) or 0.1
    top, pitch = 34, 28
    height = top + pitch * len(rows) + 42
    x = Scale(max(0.0, min(values) - margin), max(values) + margin, left, width - 12)
    panel = Panel(x, Scale(0, 1, height - 42, top))
    marks = [_legend(evaluation, width), panel.columns(lambda v: f"{v:.3g}")]
    for tick in x.ticks(6):
        marks.append(f'<path class="grid" d="M{n(x(tick))} {n(top)}V{n(height - 42)}"/>')
    for i, part in enumerate(rows):
        y = top + pitch * (i + 0.5)
        name = "all text" if part == "total" else outline.part_name(part)
        marks.append(text(left - 10, y + 4, fit(name, left - 14), "strong" if part == "total" else "", "end"))
        found = {m: v for m in reversed(evaluation.models) if (v := evaluation.value(m, part)) is not None}
        if found:
            low, high = min(found.values()), max(found.values())
            marks.append(f'<path class="axis" d="M{n(x(low))} {n(y)}H{n(x(high))}"/>')
        for model, value in found.items():
            told = f"{name}: {evaluation.label(model)}, {bits(value)} bits per byte"
            marks.append(mark(series(model, evaluation), x(value), y, 5.5, told))
    marks.append(text((left + width) / 2, height - 4, "bits per byte, fewer is better", "muted", "middle"))
    return Drawing(width, height, "Bits per byte by part of the text and model", "".join(marks))


def _legend(evaluation: Evaluation, width: float) -> str:
    marks, x, step = [], 8.0, min(110.0, (width - 8) / max(1, len(evaluation.models)))
    for model in evaluation.models:
        marks.append(mark(series(model, evaluation), x, 12, 5))
        marks.append(text(x + 10, 16, fit(model, step - 18), "strong"))
        x += step
    return "".join(marks)


COURSES = (
    ("lr", "learning rate", thin),
    ("grad_norm", "gradient norm", smooth),
    ("tokens_per_second", "tokens per second", smooth),
)


def course_panels(facts: Facts, width: float = 240, height: float = 150) -> list[Drawing]:
    """Learning rate, gradient norm and throughput over tokens; those that the metrics have."""
    drawings = []
    for key, title, drawn in COURSES:
        curves = {m: drawn(points(lines, key)) for m, lines in facts.metrics.items()}
        curves = {m: curve for m, curve in curves.items() if curve}
        if not curves:
            continue
        x = Scale(0, max(p[0] for curve in curves.values() for p in curve), 46, width - 10)
        highest = max(v for curve in curves.values() for _, v in curve[len(curve) // 50 :]) or 1.0
        panel = Panel(x, Scale(0, highest * 1.08, height - 24, 26))
        marks = [text(0, 12, title, "strong"), panel.rows(_plain, 4), panel.columns(count, 4)]
        for model in reversed(curves):
            marks.append(panel.line(curves[model], f"s{series(model, facts.evaluation)}"))
        drawings.append(Drawing(width, height, f"Course of the {title} over tokens", "".join(marks)))
    return drawings


def _plain(value: float) -> str:
    return "0" if value == 0 else f"{value:.3g}" if value < 1000 else count(value)


def time_bars(facts: Facts, width: float = 720) -> Drawing:
    """What each stage took, in the order in which they ran."""
    stages = facts.outline.timings
    total = facts.outline.seconds or 1.0
    longest = max((stage.seconds for stage in stages), default=0.0) or 1.0
    marks, pitch = [], 36
    for i, stage in enumerate(stages):
        y = pitch * i
        told = f"{duration(stage.seconds)} · {percent(stage.seconds / total)}"
        marks.append(text(0, y + 13, fit(stage.name, width - 115)))
        marks.append(text(width, y + 13, told, "muted", "end"))
        marks.append(_bar(0, y + 19, width, 8, 1, "track"))
        marks.append(_bar(0, y + 19, width, 8, stage.seconds / longest, "fill s0"))
    label = "Time by stage: " + ", ".join(f"{stage.name} {duration(stage.seconds)}" for stage in stages)
    return Drawing(width, max(1, pitch * len(stages)), label, "".join(marks))


def total_bars(facts: Facts, width: float = 330) -> Drawing:
    """Bits per byte of each model on all held-out text, as bars from nought."""
    evaluation, totals = facts.evaluation, facts.evaluation.totals()
    best, longest = evaluation.best("total"), max(totals.values())
    marks, pitch = [], 54
    for i, (model, value) in enumerate(totals.items()):
        y, css = pitch * i, "strong" if model in best else ""
        marks.append(text(0, y + 13, fit(evaluation.label(model), width - 60), css))
        marks.append(text(width, y + 13, bits(value), css, "end"))
        marks.append(_bar(0, y + 21, width, 14, value / longest, f"fill s{series(model, evaluation)}"))
    return Drawing(width, pitch * len(totals), "Bits per byte on all held-out text", "".join(marks))


def _bar(x: float, y: float, width: float, height: float, share: float, css: str) -> str:
    return (
        f'<rect class="{css}" x="{n(x)}" y="{n(y)}" width="{n(max(1.0, width * share))}" height="{n(height)}" rx="2"/>'
    )


def overview_svg(folder: str | Path) -> str:
    """One wide picture of a quickstart as an SVG file: verdict, loss curves, expert loads, totals.

    Its background is its own, so that it can stand on a light or a dark page. Raises GrainlineError as `read_facts`.
    """
    facts = read_facts(folder)
    said, loads = verdict(facts.evaluation), load_panels(facts, 310, 286)[:1]
    curves, totals = loss_curves(facts, 500, 330), total_bars(facts, 260)
    heads, top, x = 90, 104, 24.0
    marks = [
        text(x, heads, "Learning: training loss (lines), held-out loss (marks)", "strong"),
        curves.at(x, top),
    ]
    x += curves.width + 24
    if loads:
        marks.append(text(x, heads, "Balance: who does the work, each row an expert", "strong"))
        marks.append(loads[0].at(x, top))
        if has_loads(facts):
            marks.append(load_legend(facts, loads[0].width).at(x, top + loads[0].height + 6))
        x += loads[0].width + 28
    marks += [text(x, heads, "Result: bits per byte of held-out text", "strong"), totals.at(x, top)]
    spent = duration(facts.outline.seconds)
    marks.append(text(x, top + totals.height + 20, f"all of it made in {spent} on", "muted"))
    marks.append(text(x, top + totals.height + 38, fit(device(facts.outline.machine), totals.width), "muted"))
    width = x + totals.width + 24
    marks += [text(24, 34 + 23 * i, line, "big") for i, line in enumerate(textwrap.wrap(said, int(width / 8.8))[:2])]
    return Drawing(width, 446, said, "".join(marks)).file(LIGHT)
