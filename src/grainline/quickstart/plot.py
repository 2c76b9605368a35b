"""Drawing in SVG: scales, axes and marks. Colours are classes, so that one stylesheet turns light into dark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from grainline._figure import Scale
from grainline._figure import coordinate as n
from grainline._words import printable

Point = tuple[float, float]

BINS = 15
"""Colours of a diverging scale; the middle one is neutral."""


@dataclass(frozen=True)
class Theme:
    """Colours of all figures, for one background. `series` are told apart by all common kinds of colour vision."""

    paper: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]  # sparse, dense, n-gram, xz, anything else
    low: str
    middle: str
    high: str


LIGHT = Theme(
    paper="#ffffff",
    ink="#1c2024",
    muted="#5c646d",
    grid="#e3e6e9",
    series=("#0064a8", "#b84a00", "#00775b", "#94408a", "#5c646d"),
    low="#1f5fa8",
    middle="#f2f0eb",
    high="#b3480a",
)
DARK = Theme(
    paper="#15181b",
    ink="#e6e8ea",
    muted="#9aa3ab",
    grid="#2c3136",
    series=("#6cb8f5", "#f59a4c", "#3fc9a2", "#dd9ad5", "#9aa3ab"),
    low="#74b4ff",
    middle="#23282d",
    high="#ff9a52",
)
DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 5")
"""One per series, so that lines can be told apart without colour."""


def stylesheet(theme: Theme) -> str:
    """Rules for every class that figures use."""
    rules = [
        ".fig text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;"
        f"fill:{theme.ink};font-variant-numeric:tabular-nums}}",
        f".fig .muted{{fill:{theme.muted}}} .fig .strong{{font-weight:600}}",
        ".fig .big{font-size:17px;font-weight:600}",
        f".fig .grid{{stroke:{theme.grid};stroke-width:1;fill:none}}",
        f".fig .axis{{stroke:{theme.muted};stroke-width:1;fill:none}}",
        f".fig .paper{{fill:{theme.paper}}} .fig .track{{fill:{theme.grid}}}",
        ".fig .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}",
        ".fig .thin{stroke-width:1.3}",
        f".fig .mark{{stroke:{theme.paper};stroke-width:1.2}}",
    ]
    for i, colour in enumerate(theme.series):
        dash = f";stroke-dasharray:{DASHES[i]}" if DASHES[i] else ""
        rules.append(f".fig .line.s{i}{{stroke:{colour}{dash}}} .fig .fill.s{i}{{fill:{colour}}}")
    rules += [f".fig .h{i}{{fill:{colour}}}" for i, colour in enumerate(diverging(theme))]
    return "\n".join(rules)


def diverging(theme: Theme) -> list[str]:
    """BINS colours from low over middle to high."""
    half = BINS // 2
    return [_between(theme.middle, theme.low if i < half else theme.high, abs(i - half) / half) for i in range(BINS)]


def _between(start: str, end: str, share: float) -> str:
    a, b = (bytes.fromhex(colour[1:]) for colour in (start, end))
    return "#" + bytes(round(x + (y - x) * share) for x, y in zip(a, b, strict=True)).hex()


@dataclass(frozen=True)
class Drawing:
    """Marks on a canvas of `width` x `height` units, and a sentence that says what they show."""

    width: float
    height: float
    label: str
    marks: str

    def svg(self) -> str:
        """For a page that has the stylesheet."""
        return (
            f'<svg class="fig" viewBox="0 0 {n(self.width)} {n(self.height)}" width="{n(self.width)}" '
            f'role="img" aria-label="{esc(self.label)}">{self.marks}</svg>'
        )

    def file(self, theme: Theme) -> str:
        """A file of its own, with a background."""
        width, height = n(self.width), n(self.height)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="fig" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{esc(self.label)}">\n<title>{esc(self.label)}</title>\n'
            f"<style>\n{stylesheet(theme)}\n</style>\n"
            f'<rect class="paper" width="{width}" height="{height}" rx="8"/>\n{self.marks}\n</svg>\n'
        )

    def at(self, x: float, y: float) -> str:
        """Inside another drawing."""
        return f'<g transform="translate({n(x)} {n(y)})">{self.marks}</g>'


@dataclass(frozen=True)
class Panel:
    """Two scales and what is drawn between them."""

    x: Scale
    y: Scale

    def rows(self, show: Callable[[float], str], wanted: int = 5) -> str:
        """Horizontal grid lines with their values at the left."""
        left, right = sorted((self.x.start, self.x.end))
        found = []
        for tick in self.y.ticks(wanted):
            y = self.y(tick)
            found.append(f'<path class="grid" d="M{n(left)} {n(y)}H{n(right)}"/>')
            found.append(text(left - 6, y + 4, show(tick), "muted", "end"))
        return "".join(found)

    def columns(self, show: Callable[[float], str], wanted: int = 6) -> str:
        """The lower axis with its values."""
        bottom = max(self.y.start, self.y.end)
        found = [f'<path class="axis" d="M{n(self.x.start)} {n(bottom)}H{n(self.x.end)}"/>']
        for tick in self.x.ticks(wanted):
            x = self.x(tick)
            found.append(f'<path class="axis" d="M{n(x)} {n(bottom)}v4"/>')
            found.append(text(x, bottom + 17, show(tick), "muted", "middle"))
        return "".join(found)

    def line(self, points: Iterable[Point], css: str) -> str:
        """A curve; what lies beyond the scales is cut off."""
        places = " ".join(f"{n(self.x(x))},{n(self.y(y))}" for x, y in points)
        if not places:
            return ""
        left, right = sorted((self.x.start, self.x.end))
        top, bottom = sorted((self.y.start, self.y.end))
        box = f"{n(left)} {n(top - 2)} {n(right - left + 2)} {n(bottom - top + 4)}".split()
        window = "x={} y={} width={} height={}".format(*(f'"{v}"' for v in box))
        return f'<svg {window} viewBox="{" ".join(box)}"><polyline class="line {css}" points="{places}"/></svg>'

    def level(self, value: float, css: str) -> str:
        """A horizontal line across."""
        y = n(self.y(value))
        return f'<path class="line {css}" d="M{n(self.x.start)} {y}H{n(self.x.end)}"/>'


def mark(shape: int, x: float, y: float, radius: float, title: str = "") -> str:
    """A disc, square, triangle or diamond in the colour of series `shape`; `title` shows on hovering."""
    r = radius
    if shape == 0:
        path = f"M{n(x - r)} {n(y)}a{n(r)} {n(r)} 0 1 0 {n(2 * r)} 0a{n(r)} {n(r)} 0 1 0 {n(-2 * r)} 0z"
    elif shape == 1:
        path = f"M{n(x - 0.9 * r)} {n(y - 0.9 * r)}h{n(1.8 * r)}v{n(1.8 * r)}h{n(-1.8 * r)}z"
    elif shape == 2:
        path = f"M{n(x)} {n(y - 1.15 * r)}l{n(1.1 * r)} {n(1.95 * r)}h{n(-2.2 * r)}z"
    else:
        d = n(1.25 * r)
        path = f"M{n(x)} {n(y - 1.25 * r)}l{d} {d}l-{d} {d}l-{d} -{d}z"
    told = f"<title>{esc(title)}</title>" if title else ""
    return f'<path class="mark fill s{min(shape, 4)}" d="{path}">{told}</path>'


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start") -> str:
    """One line of text at its baseline."""
    return f'<text x="{n(x)}" y="{n(y)}" class="{css}" text-anchor="{anchor}">{esc(words)}</text>'


def fit(words: str, width: float) -> str:
    """Cut to about `width` units of 12-pixel text; wide characters count twice."""
    words, used = " ".join(printable(words).split()), 0.0
    for i, char in enumerate(words):
        used += 12.5 if ord(char) >= 0x2E80 else 6.8
        if used > width:
            return words[: max(1, i - 1)] + "…"
    return words


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, at least `gap` apart and inside low … high if they fit; order is kept."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    last = low - gap
    for i in order:
        last = placed[i] = max(wanted[i], last + gap)
    limit = high
    for i in reversed(order):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


def esc(words: str) -> str:
    """Safe between tags and in attributes."""
    return escape(printable(words))
