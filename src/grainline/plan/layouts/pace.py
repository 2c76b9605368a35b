"""Pace: how fast a device does the kernels of a block, from its data sheet, or as calibrated on runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grainline.documents import GrainlineError
from grainline.documents.cluster import DeviceType, Source
from grainline.plan.layouts.operators import Op

UNCERTAINTY: Mapping[Source, float] = {
    "measured": 0.05,
    "calibrated": 0.05,
    "data sheet": 0.15,
    "extrapolated": 0.25,
    "assumed": 0.3,
}
"""Standard deviation of a time, relative, by where its rate comes from: assumed."""


@dataclass(frozen=True)
class Reach:
    """Shares of a data sheet's rates that kernels reach, and what each costs to start. See docs/planner.md."""

    products: float = 0.85  # of the matrix rate, by large products
    memory: float = 0.8
    start_seconds: float = 4e-6
    tile: int = 128  # rows and columns of a product that one unit computes at a time


@dataclass(frozen=True)
class Pace:
    """Of one device type in one dtype."""

    flops_per_second: float
    bytes_per_second: float
    source: Source
    reach: Reach = Reach()
    units: int = 108  # that compute tiles

    @classmethod
    def of(cls, device: DeviceType, dtype: str, reach: Reach | None = None) -> Pace:
        """Raises GrainlineError where the device has no rate in the dtype."""
        rate = device.flops_per_second.get(dtype)
        if rate is None and dtype == "bfloat16":  # cards from before it have float16 as fast
            rate = device.flops_per_second.get("float16")
        if rate is None:
            known = ", ".join(device.flops_per_second) or "none"
            raise GrainlineError(
                f"device type '{device.name}': no rate for {dtype} is told (known: {known}). Add it to its "
                "flops_per_second, or plan in another dtype (--dtype)."
            )
        tier = device.memory[0] if device.memory else None
        moved = tier.bytes_per_second if tier and tier.bytes_per_second else math.inf
        source = device.origin(f"flops_per_second.{dtype}").source
        if source in ("measured", "calibrated") and reach is None:
            reach = Reach(products=0.95 if source == "measured" else 1.0, memory=1.0, start_seconds=1e-6, tile=1)
        from grainline.plan.shapes import UNITS

        return cls(rate, moved, source, reach or Reach(), UNITS.get(device.name, 108))

    def seconds(self, ops: Iterable[Op]) -> float:
        """Of kernels one after another; each is bound by its FLOPs or its bytes."""
        reach = self.reach
        total = 0.0
        peak, moved = self.flops_per_second * reach.products, self.bytes_per_second * reach.memory
        for op in ops:
            compute = op.flops / (peak * self._filled(op)) if op.flops else 0.0
            total += max(compute, op.bytes / moved) + reach.start_seconds
        return total

    def _filled(self, op: Op) -> float:
        """Share of a product's last wave of tiles that is used, over all its waves; 1 where tiles don't count."""
        tile = self.reach.tile
        if tile == 1 or not op.rows:
            return 1.0
        tiles = math.ceil(op.rows / tile) * math.ceil(op.columns / tile) * max(1.0, op.copies)
        exact = op.rows / tile * (op.columns / tile) * max(1.0, op.copies)
        waves = math.ceil(tiles / self.units)
        return min(1.0, max(exact / (waves * self.units), 1e-3))
