"""What all figures share: colours for light and dark paper, and a scale with round ticks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Pair = tuple[str, str]
"""A colour on light paper, and on dark."""

# All reach a contrast of 4.5 with the paper; series differ in lightness as well as in hue.
PAPER: Pair = ("#ffffff", "#14171c")
INK: Pair = ("#1c1f24", "#e8eaed")
MUTED: Pair = ("#636974", "#9aa2ae")
SERIES: tuple[Pair, ...] = (
    ("#1763a6", "#74b6f2"),
    ("#b3500a", "#f2a65a"),
    ("#12705a", "#4fc7a3"),
    ("#7a3fb5", "#c9a3f7"),
)
COLOURS: Mapping[str, Pair] = {
    "ink": INK,
    "muted": MUTED,
    **{f"series-{i}": pair for i, pair in enumerate(SERIES, 1)},
}


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on the canvas from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)

    def ticks(self, wanted: int) -> list[float]:
        """Round values inside, about `wanted` of them."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(span / wanted))
        step = next(f * power for f in (1, 2, 2.5, 5, 10, 20) if span / (f * power) <= wanted)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def coordinate(value: float) -> str:
    """To a tenth."""
    return f"{value:.1f}".removesuffix(".0")
