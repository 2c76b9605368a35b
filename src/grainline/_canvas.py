"""A canvas of bars, curves and words that becomes SVG, compact and with text as text, or a PNG of the same look.

Colours are names in a palette of (light, dark) pairs: CSS classes in the SVG, which so reads on light and dark paper.
One name is one colour in all figures, because a page may hold several.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from grainline._figure import PAPER, Pair, coordinate

Floats = NDArray[np.float64]
Anchor = Literal["start", "middle", "end"]
GAP = 0.7  # between bars that are wide enough for it
WIDE = 3.0


@dataclass(frozen=True)
class Bars:
    """Bars of one colour in one row; `titles` are shown on hovering, one per bar, or none at all."""

    x: Floats
    width: Floats
    y: float  # of the row's upper edge
    height: float
    colour: str
    titles: tuple[str, ...] = ()

    def drawn_width(self) -> Floats:
        """A little less where bars are wide, so that neighbours stay apart."""
        return np.where(self.width > WIDE, self.width - GAP, self.width)


@dataclass(frozen=True)
class Curve:
    """A line through points, or the area between it and `base`."""

    x: Floats
    y: Floats
    colour: str
    base: float | None = None
    width: float = 1.2
    dashed: bool = False


@dataclass(frozen=True)
class Words:
    """A line of text at its baseline."""

    x: float
    y: float
    text: str
    colour: str = "ink"
    size: float = 11.0
    anchor: Anchor = "start"
    bold: bool = False


@dataclass
class Canvas:
    """Marks from back to front; sizes in pixels, y downwards."""

    width: float
    height: float
    palette: Mapping[str, Pair]
    marks: list[Bars | Curve | Words] = field(default_factory=list)

    def add(self, *marks: Bars | Curve | Words) -> None:
        """Put marks on top."""
        self.marks.extend(marks)

    def svg(self, description: str) -> str:
        """`description` is what the picture says, for those who can't see it."""
        width, height = coordinate(self.width), coordinate(self.height)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="timeline" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{escape(description)}">',
            f"<style>{self._sheet()}</style>",
        ]
        parts += [_svg(mark) for mark in self.marks]
        return "\n".join(parts) + "\n</svg>\n"

    def _sheet(self) -> str:
        """Rules that reach no further than this kind of figure, on a page that has it inline."""
        used = dict.fromkeys(mark.colour for mark in self.marks)
        words = {mark.colour for mark in self.marks if isinstance(mark, Words)}
        sheet = (
            "svg.timeline text{font:11px system-ui,sans-serif;text-anchor:start;stroke:none}"
            "svg.timeline text.m{text-anchor:middle}svg.timeline text.e{text-anchor:end}"
            "svg.timeline .b{font-weight:600}svg.timeline path{fill:none}"
        )
        for theme in (0, 1):
            rules = f"svg.timeline{{background:{PAPER[theme]}}}"
            for name in used:
                pair = self.palette[name]
                if theme and pair[0] == pair[1]:
                    continue
                also = f",svg.timeline text.{name}" if name in words else ""
                rules += f"svg.timeline path.{name}{{stroke:{pair[theme]}}}"
                rules += f"svg.timeline .a.{name}{also}{{fill:{pair[theme]};stroke:none}}"
            sheet += f"@media(prefers-color-scheme:dark){{{rules}}}" if theme else rules
        return sheet

    def png(self, dpi: int = 200) -> bytes:
        """On light paper; `dpi` of 100 gives one dot per pixel."""
        import matplotlib as mpl
        from matplotlib.figure import Figure

        with mpl.rc_context({"font.family": "sans-serif"}):
            figure = Figure(figsize=(self.width / 100, self.height / 100), facecolor=PAPER[0])
            axes = figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0))
            axes.axis("off")
            for order, mark in enumerate(self.marks):
                _paint(mark, self.palette[mark.colour][0], axes, order)
            out = io.BytesIO()
            figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
        return out.getvalue()


def _svg(mark: Bars | Curve | Words) -> str:
    name = mark.colour
    if isinstance(mark, Words):
        css = name + {"start": "", "middle": " m", "end": " e"}[mark.anchor] + (" b" if mark.bold else "")
        size = "" if mark.size == 11.0 else f' style="font-size:{coordinate(mark.size)}px"'
        place = f'x="{coordinate(mark.x)}" y="{coordinate(mark.y)}"'
        return f'<text {place} class="{css}"{size}>{escape(mark.text)}</text>'
    if isinstance(mark, Curve):
        line = _polyline(mark.x, mark.y)
        if mark.base is not None:
            line += f"V{coordinate(mark.base)}H{coordinate(float(mark.x[0]))}z"
            return f'<path class="a {name}" d="{line}"/>'
        dash = ' stroke-dasharray="4 3"' if mark.dashed else ""
        return f'<path class="{name}" stroke-width="{coordinate(mark.width)}"{dash} d="{line}"/>'
    if mark.titles:
        boxes = zip(mark.x, mark.drawn_width(), mark.titles, strict=True)
        return "".join(
            f'<path class="a {name}" d="M{coordinate(x)} {coordinate(mark.y)}h{coordinate(w)}'
            f'v{coordinate(mark.height)}h-{coordinate(w)}z"><title>{escape(title)}</title></path>'
            for x, w, title in boxes
        )
    return f'<path class="{name}" stroke-width="{coordinate(mark.height)}" d="{_dashes(mark)}"/>'


def _dashes(bars: Bars) -> str:
    """All bars as one broken line as thick as they are high: the shortest way to say it in SVG."""
    starts = np.rint(bars.x * 10).astype(np.int64)  # in tenths, so that rounding doesn't add up
    ends = np.maximum(np.rint((bars.x + bars.drawn_width()) * 10).astype(np.int64), starts + 1)
    parts = [f"M{coordinate(starts[0] / 10)} {coordinate(bars.y + bars.height / 2)}h{_tenths(ends[0] - starts[0])}"]
    for start, end, before in zip(starts[1:], ends[1:], ends[:-1], strict=False):
        step = "" if start == before else f"m{_tenths(start - before)} 0"
        parts.append(f"{step}h{_tenths(end - start)}")
    return "".join(parts)


def _polyline(xs: Floats, ys: Floats) -> str:
    """Steps are said as such, which is shorter."""
    found: list[str] = []
    last_x = last_y = ""
    for x, y in zip(map(coordinate, xs), map(coordinate, ys), strict=True):
        if not found:
            found.append(f"M{x} {y}")
        elif y == last_y:
            found[-1:] = [f"H{x}"] if found[-1].startswith("H") else [found[-1], f"H{x}"]
        elif x == last_x:
            found.append(f"V{y}")
        else:
            found.append(f"L{x} {y}")
        last_x, last_y = x, y
    return "".join(found)


def _tenths(value: int) -> str:
    return coordinate(value / 10).replace("0.", ".", 1) if abs(value) < 10 else coordinate(value / 10)


def _paint(mark: Bars | Curve | Words, colour: str, axes: object, order: int) -> None:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection

    assert isinstance(axes, Axes)
    point = 0.72  # 72 points are an inch, which has 100 pixels here
    if isinstance(mark, Words):
        side: dict[Anchor, Literal["left", "center", "right"]] = {"start": "left", "middle": "center", "end": "right"}
        weight = "bold" if mark.bold else "normal"
        axes.text(
            mark.x,
            mark.y,
            mark.text,
            color=colour,
            fontsize=mark.size * point,
            ha=side[mark.anchor],
            va="baseline",
            fontweight=weight,
            parse_math=False,
            zorder=order,
        )
    elif isinstance(mark, Curve) and mark.base is not None:
        axes.fill_between(mark.x, mark.y, mark.base, color=colour, linewidth=0, zorder=order)
    elif isinstance(mark, Curve):
        style = (0, (4, 3)) if mark.dashed else "solid"
        axes.plot(mark.x, mark.y, color=colour, linewidth=mark.width * point, linestyle=style, zorder=order)
    else:
        left, right = mark.x, mark.x + mark.drawn_width()
        top, bottom = np.full_like(left, mark.y), np.full_like(left, mark.y + mark.height)
        corners = np.stack([np.stack(p, -1) for p in ((left, top), (right, top), (right, bottom), (left, bottom))], 1)
        axes.add_collection(PolyCollection(list(corners), facecolors=colour, linewidths=0, zorder=order))


def text_width(text: str, size: float) -> float:
    """About how wide `text` is, in pixels."""
    return 0.6 * size * len(text)


def fit(text: str, size: float, width: float) -> str:
    """`text`, cut to about `width` pixels."""
    most = int(width / (0.6 * size))
    return text if len(text) <= most else text[: max(1, most - 1)] + "…"
