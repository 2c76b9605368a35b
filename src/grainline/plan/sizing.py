"""Sizes that hardware likes: how large a message must be, and which shapes of products leave no units idle.

ZAYA1's report (arXiv 2511.17127) measures collectives and products first and derives its model's shape from them; its
own rules are not printed. These are the co-design line's: *The Case for Co-Designing Model Architectures with Hardware*
(arXiv 2401.14489), and the usual linear model of a message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grainline.documents import GrainlineError

Collective = Literal["all-reduce", "reduce-scatter", "all-gather", "all-to-all", "broadcast"]
FEWEST_SIZES = 3


@dataclass(frozen=True)
class Line:
    """Seconds of a message of m bytes: α + m / B."""

    latency_seconds: float
    bytes_per_second: float

    def seconds(self, size_bytes: float) -> float:
        """Of one message."""
        return self.latency_seconds + size_bytes / self.bytes_per_second

    def efficiency(self, size_bytes: float) -> float:
        """Share of B that messages of this size reach."""
        return size_bytes / self.bytes_per_second / self.seconds(size_bytes)

    def bucket_bytes(self, efficiency: float = 0.9) -> float:
        """The smallest message that reaches a share η of B: α · B · η / (1 − η)."""
        if not 0 < efficiency < 1:
            raise GrainlineError(f"an efficiency of {efficiency:g} can't be had: it must lie between 0 and 1.")
        return self.latency_seconds * self.bytes_per_second * efficiency / (1 - efficiency)


def fit(samples: Sequence[tuple[float, float]]) -> Line:
    """The line through (bytes, seconds) of messages, by least squares of relative errors, so that small ones count too.

    Raises GrainlineError for fewer than three sizes, sizes and times that aren't positive, and times that don't grow.
    """
    import numpy as np
    from scipy.optimize import nnls

    sizes = sorted({size for size, _ in samples})
    if len(sizes) < FEWEST_SIZES:
        raise GrainlineError(f"{len(sizes)} sizes of messages don't make a line: measure at least {FEWEST_SIZES}.")
    if any(not (0 < size < math.inf and 0 < seconds < math.inf) for size, seconds in samples):
        raise GrainlineError("sizes and times of messages must be positive numbers: bytes, and seconds.")
    size_N, seconds_N = np.array(samples, dtype=float).T
    unit = float(size_N.max())
    (alpha, slope), _ = nnls(np.stack((1 / seconds_N, size_N / unit / seconds_N), axis=1), np.ones(len(samples)))
    smallest = min(seconds for size, seconds in samples if size == sizes[0])
    largest = max(seconds for size, seconds in samples if size == sizes[-1])
    if slope <= 0 or largest <= smallest:
        raise GrainlineError(
            "larger messages don't take longer here: the clock is too coarse, or the link was busy. Take more rounds "
            "of each size, and larger sizes."
        )
    return Line(float(alpha), unit / float(slope))


def bus_factor(collective: Collective, ranks: int) -> float:
    """Bytes that each rank's link carries over the bytes of the whole buffer, so that rates of collectives compare.

    The buffer is what a rank holds where it holds all: the input of an all-reduce or a reduce-scatter, the output of an
    all-gather; of an all-to-all, what a rank sends, its own part included.
    """
    if ranks < 2:
        raise GrainlineError(f"a collective of {ranks} ranks moves nothing: it takes at least 2.")
    share = (ranks - 1) / ranks
    table = {"all-reduce": 2 * share, "reduce-scatter": share, "all-gather": share, "all-to-all": share}
    return {**table, "broadcast": 1.0}[collective]


@dataclass(frozen=True)
class Quantised:
    """A product's output in tiles, and the tiles in waves of one for each unit."""

    tiles: int
    waves: int
    tile_efficiency: float  # of the tiles' area, what the output needs
    wave_efficiency: float  # of the waves' tiles, those that there are

    @property
    def efficiency(self) -> float:
        """Both."""
        return self.tile_efficiency * self.wave_efficiency


def quantised(m: int, n: int, units: int, tile: tuple[int, int] = (256, 256), copies: int = 1) -> Quantised:
    """An m × n output over so many units (SMs, CUs), a tile each (arXiv 2401.14489, section 3); `copies` of it at once,
    as experts' are.
    """
    if min(m, n, units, *tile) < 1:
        raise GrainlineError(f"a product of {m} × {n} in tiles of {tile} over {units} units: all must be positive.")
    rows, columns = math.ceil(m / tile[0]), math.ceil(n / tile[1])
    tiles = copies * rows * columns
    waves = math.ceil(tiles / units)
    area = rows * tile[0] * columns * tile[1]
    return Quantised(tiles, waves, m * n / area, tiles / (waves * units))


def widest_for_nothing(m: int, n: int, units: int, tile: tuple[int, int] = (256, 256), copies: int = 1) -> int:
    """The most columns that m rows can have in as many waves as n columns take."""
    tiles = quantised(m, n, units, tile, copies).waves * units
    return tiles // (copies * math.ceil(m / tile[0])) * tile[1]


def largest_power(value: int, most: int = 64) -> int:
    """The largest power of two that divides a value, up to `most`."""
    return math.gcd(value, most)
