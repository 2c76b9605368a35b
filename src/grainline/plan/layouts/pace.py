"""Pace: how fast a device does the kernels of a block, from its data sheet, or as calibrated on runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from grainline.documents import GrainlineError
from grainline.documents.cluster import DeviceType, Source
from grainline.plan.layouts.work import Op
from grainline.plan.shapes import UNITS

UNCERTAINTY: Mapping[Source, float] = {
    "measured": 0.05,
    "calibrated": 0.05,
    "data sheet": 0.1,
    "extrapolated": 0.2,
    "assumed": 0.3,
}
"""Standard deviation of a time, relative, by where its rate comes from. Assumed; that of data sheets is held against
the rows of PTD-P's table 1, which are within it (benchmarks/bench_planner_truth.py)."""


class Tile(NamedTuple):
    """What a unit computes of a product at a time, and its pace over that of the largest."""

    rows: int
    columns: int
    pace: float


TILES = (Tile(256, 128, 1.0), Tile(128, 256, 1.0), Tile(128, 128, 0.95), Tile(128, 64, 0.85), Tile(64, 64, 0.7))
"""cuBLAS' sizes, largest and quickest first (NVIDIA, Matrix Multiplication Background User's Guide, section 2.3; the
paces, which it has as a figure for one product, are assumed)."""
SPLIT = 1024  # of a product's inner dim, from which units share one tile


@dataclass(frozen=True)
class Reach:
    """Shares of a data sheet's rates that kernels reach, and what each costs to start.

    `products` and `memory` are fitted to the ten rows of PTD-P's table 1 (arXiv 2104.04473) and to nothing else, by
    benchmarks/bench_planner_truth.py. An A100's clock under its power limit is most of what `products` lacks of 1.
    `start_seconds` is assumed: the gap between two kernels of a stream with its ramp.
    """

    products: float = 0.775  # of the matrix rate, by full waves of the largest tiles
    memory: float = 0.68
    start_seconds: float = 4e-6
    tiles: tuple[Tile, ...] = TILES  # (): products take as long as their FLOPs


AS_MEASURED = Reach(products=0.95, memory=1.0, start_seconds=1e-6, tiles=())
"""Rates that were measured with a product and a copy: shares of them that blocks reach."""
AS_CALIBRATED = Reach(products=1.0, memory=1.0, start_seconds=1e-6, tiles=())
"""Rates that were made so that runs come out right."""


class Took(NamedTuple):
    """Seconds of kernels, by what bounds them."""

    products: float
    moved: float  # through memory, and starts

    @property
    def total(self) -> float:
        """Both."""
        return self.products + self.moved


@dataclass(frozen=True)
class Pace:
    """Of one device type in one dtype."""

    flops_per_second: float
    bytes_per_second: float
    source: Source
    reach: Reach = Reach()
    units: int = 108  # that compute tiles
    narrow_flops_per_second: float = 0.0  # of products in eight bits, where the model has them

    @classmethod
    def of(cls, device: DeviceType, dtype: str, reach: Reach | None = None) -> Pace:
        """Raises GrainlineError where the device has no rate in the dtype.

        In float8 the products of linear layers have that rate, all else bfloat16's.
        """
        narrow = device.flops_per_second.get("float8") if dtype == "float8" else 0.0
        wanted = "bfloat16" if dtype == "float8" and narrow else dtype
        rate = device.flops_per_second.get(wanted)
        if rate is None and wanted == "bfloat16":  # cards from before it have float16 as fast
            rate = device.flops_per_second.get("float16")
        if rate is None or narrow is None:
            known = ", ".join(device.flops_per_second) or "none"
            raise GrainlineError(
                f"device type '{device.name}': no rate for {dtype} is told (known: {known}). Add it to its "
                "flops_per_second, or plan in another dtype (--dtype)."
            )
        tier = device.memory[0] if device.memory else None
        moved = tier.bytes_per_second if tier and tier.bytes_per_second else math.inf
        source = device.origin(f"flops_per_second.{dtype}").source
        if reach is None:
            reach = {"measured": AS_MEASURED, "calibrated": AS_CALIBRATED}.get(source, Reach())
        return cls(rate, moved, source, reach, UNITS.get(device.name, 108), narrow)

    @property
    def speed(self) -> float:
        """FLOPs per second of large products."""
        return self.flops_per_second * self.reach.products

    def took(self, ops: Iterable[Op]) -> Took:
        """Seconds of kernels one after another; each is bound by its FLOPs or its bytes."""
        products = moved = 0.0
        reach = self.reach
        through = self.bytes_per_second * reach.memory
        for op in ops:
            carrying = op.bytes / through
            computing = self._computing(op) if op.flops else 0.0
            if computing >= carrying:
                products += computing * op.heaviest
            else:
                moved += carrying * op.heaviest
            moved += reach.start_seconds
        return Took(products, moved)

    def _computing(self, op: Op) -> float:
        rate = self.narrow_flops_per_second if op.narrow else self.flops_per_second
        return (op.flops + op.again) / (rate * self.reach.products * self._filled(op))

    def _filled(self, op: Op) -> float:
        """The share of the units' time that a product uses, with the tiles that suit it best."""
        if not self.reach.tiles or not op.rows:
            return 1.0
        best = 1e-3
        for tile in self.reach.tiles:
            high, wide = op.rows / tile.rows, op.columns / tile.columns
            tiles = math.ceil(high) * math.ceil(wide) * max(1.0, op.copies)
            if 2 * tiles <= self.units and op.inner >= 2 * SPLIT:
                split = min(self.units // tiles, op.inner // SPLIT)
                tiles, high = tiles * split, high * split
            waves = math.ceil(tiles / self.units)
            best = max(best, tile.pace * high * wide * max(1.0, op.copies) / (waves * self.units))
        return min(1.0, best)
