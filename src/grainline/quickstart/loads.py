"""The expert-load heat map: for each sparse layer, who did the work while the model learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grainline._figure import Scale
from grainline._figure import coordinate as n
from grainline._words import count
from grainline.quickstart.facts import Facts
from grainline.quickstart.plot import BINS, Drawing, Panel, Point, text

CELLS = 60_000
"""Cells of all panels together, about: more would make the page slow."""


@dataclass(frozen=True)
class Loads:
    """Of one layer. `ratios_CE[c][e]`: load over even load in column c, experts in the order of their last loads.

    Those without weights (MoE++) stand last; even is an even share of what those with weights got.
    """

    edges: tuple[float, ...]  # tokens at the columns' borders, one more than columns
    ratios_CE: tuple[tuple[float, ...], ...]
    imbalance: tuple[Point, ...]  # (tokens, max over mean load), every step


@dataclass(frozen=True)
class Ending:
    """Of one layer: means over the last tenth of the steps, None where they weren't logged."""

    layer: str
    imbalance: float | None
    entropy: float | None  # of what the router's scores are among all choices, as a share of the most there can be
    costless: float | None  # share of the choices that went to experts without weights


def has_loads(facts: Facts) -> bool:
    """Whether there is a heat map to draw, and not only curves."""
    return any(line.get("loads") for line in facts.metrics["sparse"])


def layer_loads(facts: Facts) -> list[Loads]:
    """Of every sparse layer of the sparse run; empty if it logged neither loads nor imbalance."""
    metrics, pool = facts.metrics["sparse"], facts.model.moe.pool if facts.model and facts.model.moe else None
    rows = [line for line in metrics if line.get("loads")]
    curves = [line for line in metrics if line.get("imbalance")]
    layers = len(rows[0]["loads"]) if rows else len(curves[0]["imbalance"]) if curves else 0
    found = []
    for layer in range(layers):
        edges, ratios_CE = _columns(rows, layer, layers, pool)
        curve = [(float(line["tokens"]), float(line["imbalance"][layer])) for line in curves]
        found.append(Loads(edges, ratios_CE, tuple(point for point in curve if math.isfinite(point[1]))))
    return found


def _columns(
    rows: Sequence[dict[str, Any]], layer: int, layers: int, pool: int | None
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Neighbouring rows are added up where there are more than can be drawn."""
    if not rows:
        return (), ()
    experts = len(rows[0]["loads"][layer])
    columns = max(12, min(64, CELLS // (layers * experts)))
    per_column = -(-len(rows) // columns)
    edges, sums_CE = [0.0], []
    for first in range(0, len(rows), per_column):
        block = rows[first : first + per_column]
        edges.append(float(block[-1]["tokens"]))
        sums_CE.append([sum(row["loads"][layer][e] for row in block) for e in range(experts)])
    last_E = [sum(row["loads"][layer][e] for row in rows[-max(1, len(rows) // 10) :]) for e in range(experts)]
    pool = experts if pool is None or pool > experts else pool
    order = [*sorted(range(pool), key=lambda e: -last_E[e]), *range(pool, experts)]
    even_C = [sum(sums_E[:pool]) / pool or 1.0 for sums_E in sums_CE]
    return tuple(edges), tuple(
        tuple(sums_E[e] / even for e in order) for sums_E, even in zip(sums_CE, even_C, strict=True)
    )


def octaves(loads: Sequence[Loads]) -> float:
    """How many doublings the colours reach to either side: 1, 2 or 3, so that all but the extremes fit."""
    found = sorted(_log2(r) for one in loads for column in one.ratios_CE for r in column)
    if not found:
        return 1.0
    cut = len(found) // 50
    return float(min(3, max(1, math.ceil(max(-found[cut], found[-1 - cut]) - 0.05))))


def _log2(ratio: float) -> float:
    return math.log2(max(ratio, 1e-3))


def colour(ratio: float, reach: float) -> int:
    """The bin of load over even load; the middle bin is even load."""
    half = BINS // 2
    return half + round(max(-1.0, min(1.0, _log2(ratio) / reach)) * half)


def load_panels(facts: Facts, width: float = 330, height: float = 220) -> list[Drawing]:
    """One drawing per sparse layer: the imbalance as a curve, and below it the loads as a heat map."""
    loads = layer_loads(facts)
    reach = octaves(loads)
    names = layer_names(facts, len(loads))
    return [_panel(one, name, reach, width, height) for one, name in zip(loads, names, strict=True)]


def _panel(loads: Loads, name: str, reach: float, width: float, height: float) -> Drawing:
    left, bottom = 30, height - 24
    heat_top = 78 if loads.ratios_CE and loads.imbalance else 24
    end = max([*loads.edges, *(tokens for tokens, _ in loads.imbalance)])
    x = Scale(0, end, left, width - 12)
    marks = [text(0, 12, name, "strong")]
    label = f"Expert loads of {name}"
    if loads.imbalance:
        last = loads.imbalance[-max(1, len(loads.imbalance) // 10) :]
        final = sum(value for _, value in last) / len(last)
        top = max(1.5, max(value for _, value in loads.imbalance))
        strip = Panel(x, Scale(1, top, heat_top - 8 if loads.ratios_CE else bottom, 26))
        thin = loads.imbalance[:: -(-len(loads.imbalance) // 240)]
        marks.append(text(width - 12, 12, f"busiest expert: {final:.2f} × even at the end", "muted", "end"))
        for value in (1, top):
            y = strip.y(value)
            marks.append(f'<path class="grid" d="M{n(left)} {n(y)}H{n(width - 12)}"/>')
            marks.append(text(left - 6, y + 4, f"{value:.2g}", "muted", "end"))
        marks.append(strip.line(thin, "s0 thin"))
        label += f": the busiest does {final:.2f} times an even share at the end"
    if loads.ratios_CE:
        marks.append(_cells(loads, x, heat_top, bottom, reach))
    marks.append(Panel(x, Scale(0, 1, bottom, heat_top)).columns(count, 4))
    return Drawing(width, height, label, "".join(marks))


def _cells(loads: Loads, x: Scale, top: float, bottom: float, reach: float) -> str:
    """Cells of one colour make one path; neighbours in a row are joined."""
    experts = len(loads.ratios_CE[0])
    row = (bottom - top) / experts
    paths: dict[int, list[str]] = {}
    for e in range(experts):
        bins = [colour(column[e], reach) for column in loads.ratios_CE]
        first = 0
        for c in range(1, len(bins) + 1):
            if c == len(bins) or bins[c] != bins[first]:
                start, stop = n(x(loads.edges[first])), n(x(loads.edges[c]))
                y, below = n(top + e * row), n(top + (e + 1) * row)
                paths.setdefault(bins[first], []).append(f"M{start} {y}H{stop}V{below}H{start}z")
                first = c
    drawn = (f'<path class="h{i}" d="{"".join(parts)}"/>' for i, parts in sorted(paths.items()))
    return f'<g shape-rendering="crispEdges">{"".join(drawn)}</g>'


def load_legend(facts: Facts, width: float = 330) -> Drawing:
    """The colours and what they stand for."""
    reach = octaves(layer_loads(facts))
    left, right = 30.0, width - 12
    step = (right - left) / BINS
    marks = [
        f'<rect class="h{i}" x="{n(left + i * step)}" y="4" width="{n(step + 0.5)}" height="10"/>' for i in range(BINS)
    ]
    most = f"{2**reach:.0f}"
    marks.append(text(left, 28, f"1/{most} of even or less", "muted"))
    marks.append(text((left + right) / 2, 28, "even", "muted", "middle"))
    marks.append(text(right, 28, f"{most} × even or more", "muted", "end"))
    return Drawing(width, 34, "Colours of the heat map, from little load to much", "".join(marks))


def endings(facts: Facts) -> list[Ending]:
    """How the routers of all sparse layers ended; empty if nothing of them was logged."""
    lines = [line for line in facts.metrics["sparse"] if line.get("imbalance")]
    last = lines[-max(1, len(lines) // 10) :] if lines else []
    layers = len(last[0]["imbalance"]) if last else 0
    choices = facts.model.moe.choices if facts.model and facts.model.moe else None

    def mean(key: str, layer: int) -> float | None:
        values = [line[key][layer] for line in last if line.get(key) and line["imbalance"][layer]]  # 0: no tokens
        return sum(values) / len(values) if values and all(map(math.isfinite, values)) else None

    found = []
    for layer, name in enumerate(layer_names(facts, layers)):
        entropy = mean("entropy", layer)
        share = None if entropy is None or choices is None or choices < 2 else entropy / math.log(choices)
        found.append(Ending(name, mean("imbalance", layer), share, mean("costless", layer)))
    return found


def balance_loss(facts: Facts) -> float | None:
    """The mean over the last tenth of the steps, before its coefficient; 1 is even. None where it wasn't logged."""
    lines = [line for line in facts.metrics["sparse"] if line.get("imbalance") and line.get("balance_loss") is not None]
    last = lines[-max(1, len(lines) // 10) :] if lines else []
    return sum(line["balance_loss"] for line in last) / len(last) if last else None


def layer_names(facts: Facts, layers: int) -> list[str]:
    """As the model's config numbers them, from 1; plain numbers where it doesn't say."""
    model = facts.model
    if model is not None and len(model.sparse_layers) == layers:
        return [f"layer {i + 1} of {model.layers}" if i < model.layers else "MTP layer" for i in model.sparse_layers]
    return [f"sparse layer {i + 1}" for i in range(layers)]
