"""The roofline of each measured target: what it can compute by how much it computes with each byte that it reads.

S. Williams, A. Waterman and D. Patterson, Roofline: An Insightful Visual Performance Model for Multicore Architectures,
Communications of the ACM 52(4), 2009. Points are measured matmuls, at the intensity that they have if each matrix goes
through memory once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grainline._canvas import Bars, Canvas, Curve, Words
from grainline._figure import COLOURS, Scale
from grainline.documents import GrainlineError
from grainline.hardware.measured import Measured

WIDTH, HEIGHT = 760.0, 400.0
LEFT, RIGHT, TOP, BOTTOM = 84.0, 16.0, 34.0, 44.0
LEAST, MOST = -3, 12  # log2 of the FLOPs per byte that are shown
DOT = 5.0
ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Slope:
    """A memory or cache: bytes per second, and what it is called."""

    name: str
    bytes_per_second: float


@dataclass(frozen=True)
class Roof:
    """A dtype: the best of its matmuls, and those by size."""

    dtype: str
    flops_per_second: float
    by_size: dict[int, float]


def roofline_svg(measured: Measured) -> str:
    """A picture, a panel for each target that has both rates. Raises GrainlineError where none has."""
    panels = []
    for target, device in measured.devices().items():
        slopes, roofs = _slopes(measured, target), _roofs(measured, target)
        if slopes and roofs:
            panels.append((f"{device} ({target})", slopes, roofs))
    if not panels:
        raise GrainlineError("--plot: a roofline needs memory's rate and matmuls' rates; measure both parts.")
    canvas = Canvas(WIDTH, HEIGHT * len(panels), COLOURS)
    for i, (title, slopes, roofs) in enumerate(panels):
        _panel(canvas, i * HEIGHT, title, slopes, roofs)
    said = "; ".join(
        f"{title}: {', '.join(f'{s.name} {s.bytes_per_second / 1e9:,.0f} GB/s' for s in slopes)}, "
        + ", ".join(f"{r.dtype} {r.flops_per_second / 1e9:,.0f} GFLOP/s" for r in roofs)
        for title, slopes, roofs in panels
    )
    return canvas.svg(f"Roofline. {said}.")


def _slopes(measured: Measured, target: str) -> list[Slope]:
    rate = measured.memory_bytes_per_second(target)
    caches = [Slope(f"L{level}", rate) for level, rate in measured.cache_rates().items()] if target == "cpu" else []
    return [*caches, *([] if rate is None else [Slope("memory", rate)])]


def _roofs(measured: Measured, target: str) -> list[Roof]:
    found = [
        Roof(dtype, max(by_size.values()), dict(by_size)) for dtype, by_size in measured.matmul.get(target, {}).items()
    ]
    return sorted(found, key=lambda roof: -roof.flops_per_second)


def _panel(canvas: Canvas, top: float, title: str, slopes: Sequence[Slope], roofs: Sequence[Roof]) -> None:
    highest = max(roof.flops_per_second for roof in roofs)
    lowest = min(min(s.bytes_per_second for s in slopes) * 2.0**LEAST, *(min(r.by_size.values()) for r in roofs))
    x = Scale(LEAST, MOST, LEFT, WIDTH - RIGHT)
    y = Scale(math.floor(math.log10(lowest)), math.log10(highest) + 0.25, top + HEIGHT - BOTTOM, top + TOP)
    canvas.add(Words(LEFT, top + 18, title, bold=True))
    _axes(canvas, x, y)
    for i, slope in enumerate(slopes):
        ridge = min(MOST, math.log2(highest / slope.bytes_per_second))
        colour = "muted" if i < len(slopes) - 1 else "ink"
        begin = max(LEAST, math.log2(10**y.low / slope.bytes_per_second))
        _line(canvas, x, y, begin, ridge, slope.bytes_per_second, colour)
        words = f"{slope.name} {slope.bytes_per_second / 1e9:,.0f} GB/s"
        canvas.add(Words(x(MOST), y.start - 14 * (len(slopes) - i), words, colour, 10, "end"))
    canvas.add(Words(x(MOST), y.start - 14 * (len(slopes) + 1), "slopes, from above", "muted", 10, "end"))
    memory = slopes[-1].bytes_per_second
    for i, roof in enumerate(roofs, 1):
        colour, height = f"series-{i}", y(math.log10(roof.flops_per_second))
        start = x(max(LEAST, math.log2(roof.flops_per_second / max(s.bytes_per_second for s in slopes))))
        canvas.add(Curve(np.array([start, x(MOST)]), np.array([height, height]), colour, width=1.6))
        ridge = roof.flops_per_second / memory
        label = f"{roof.dtype} {roof.flops_per_second / 1e9:,.0f} GFLOP/s, from {ridge:,.0f} FLOP per byte on"
        canvas.add(Words(x(MOST), height - 5, label, colour, 10, "end"))
        sizes = [n for n in roof.by_size if LEAST <= _intensity(n, roof.dtype) <= MOST]
        for n in sizes:
            across, up = x(_intensity(n, roof.dtype)), y(math.log10(roof.by_size[n]))
            dot = np.array([across - DOT / 2]), np.array([DOT])
            canvas.add(
                Bars(*dot, up - DOT / 2, DOT, colour, (f"{roof.dtype} {n}×{n}: {roof.by_size[n] / 1e9:,.0f} GFLOP/s",))
            )


def _intensity(n: int, dtype: str) -> float:
    """log2 of the FLOPs per byte of an n×n matmul whose three matrices go through memory once."""
    return math.log2(2 * n / (3 * ITEM_BYTES[dtype]))


def _line(canvas: Canvas, x: Scale, y: Scale, begin: float, end: float, rate: float, colour: str) -> None:
    """rate · intensity, straight because both scales are logarithmic."""
    ends = np.array([begin, end])
    heights = [y(math.log10(rate) + at * math.log10(2)) for at in ends]
    canvas.add(Curve(np.array([x(at) for at in ends]), np.array(heights), colour, width=1.4))


def _axes(canvas: Canvas, x: Scale, y: Scale) -> None:
    for power in range(LEAST, MOST + 1, 3):
        words = f"1/{2**-power}" if power < 0 else f"{2**power}"
        canvas.add(Words(x(power), y.start + 15, words, "muted", 10, "end" if power == MOST else "middle"))
    canvas.add(Words(x(MOST), y.start + 32, "FLOP per byte", "muted", 10, "end"))
    canvas.add(Curve(np.array([x.start, x.end]), np.array([y.start, y.start]), "muted", width=0.8))
    for power in range(math.ceil(y.low), math.floor(y.high) + 1):
        canvas.add(Curve(np.array([x.start, x.end]), np.array([y(power), y(power)]), "muted", width=0.3))
        canvas.add(Words(x.start - 6, y(power) + 4, f"{_flops(power)}", "muted", 10, "end"))


def _flops(power: int) -> str:
    """10⁹ FLOP/s as "1 GFLOP/s"."""
    prefix, rest = {0: "", 1: "K", 2: "M", 3: "G", 4: "T", 5: "P"}[power // 3], power % 3
    return f"{10**rest} {prefix}FLOP/s"
