"""How long an op takes on a device type: a roofline with the shares of its rates that are reached, each with a source.

An op takes a start, and then as long as its products or its bytes do, whichever is longer (Williams et al. 2009).
Products suffer where the last wave of tiles leaves units idle, and everything does where there is too little work for
all units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from grainline.documents import GrainlineError
from grainline.documents.cluster import DeviceType, Source
from grainline.hardware.catalogue import ListedDevice, catalogue
from grainline.models.count import WIDTH
from grainline.plan.serving.ops import Family, Op
from grainline.plan.shapes import UNITS

FALLBACK: Mapping[str, tuple[str, ...]] = {
    "bfloat16": ("bfloat16", "float16", "float32"),
    "float16": ("float16", "bfloat16", "float32"),
    "float8": ("float8", "bfloat16", "float16", "float32"),
    "int8": ("int8", "bfloat16", "float16", "float32"),
    "int4": ("bfloat16", "float16", "float32"),  # weights alone are as narrow
    "float4": ("float4", "float8", "bfloat16"),
    "float32": ("float32",),
}
"""A weight's dtype → what its products are computed in: the first that a device has a rate for."""


@dataclass(frozen=True)
class Reached:
    """What kernels of one family reach of a device's rates, and what they take besides."""

    flops: float  # share
    memory: float  # share; of links for a collective
    start_seconds: float  # of a kernel, its launch included
    wave_seconds: float = 0.0  # of each wave of tiles, whatever they hold
    dequantising: float = 1.0  # share of the memory rate where weights are wider in the products
    source: Source = "assumed"
    reference: str = ""


ATTENTION = "attention kernels of one stream: fewer FLOP/s than products, and a wait for each wave"
ASSUMED: Mapping[Family, Reached] = {
    "product": Reached(0.7, 0.8, 4e-6, dequantising=0.6, reference="large products and streams under a CUDA graph"),
    "experts": Reached(0.4, 0.7, 20e-6, dequantising=0.6, reference="grouped products, with sorting before and after"),
    "prefill": Reached(0.55, 0.8, 8e-6, 3e-6, reference=ATTENTION),
    "decode": Reached(0.55, 0.8, 8e-6, 6e-6, reference=ATTENTION),
    "move": Reached(1.0, 0.8, 3e-6, reference="streams"),
    "all-reduce": Reached(1.0, 0.7, 6e-6, reference="one kernel inside a node"),
    "all-gather": Reached(1.0, 0.7, 12e-6, reference="NCCL inside a node"),
    "reduce-scatter": Reached(1.0, 0.7, 12e-6, reference="NCCL inside a node"),
    "all-to-all": Reached(1.0, 0.7, 12e-6, reference="NCCL inside a node"),
}
"""Where nothing has been measured: round numbers, chosen with a look at an A100's measured tables and no other device's
(benchmarks/bench_serving_truth.py holds them against the others)."""
STEP_SECONDS = 1e-3
"""Assumed: an engine's own work for each step besides its kernels: scheduling, sampling, detokenising."""


class Correction(Protocol):
    """What measured ops say of estimated ones."""

    def seconds(self, op: Op, estimate: float) -> float:
        """Of an op whose estimate without them is known."""
        ...


@dataclass(frozen=True)
class Speed:
    """One device type and, for a group of them, the links between: rates as published, and what is reached of them."""

    name: str
    flops_per_second: Mapping[str, float]
    bytes_per_second: float
    capacity_bytes: float
    units: int | None  # that compute tiles; None: not known, then no waves are counted
    link_bytes_per_second: float  # of a device towards all others of its node, in one direction
    reached: Mapping[Family, Reached] = field(default_factory=lambda: ASSUMED)
    step_seconds: float = STEP_SECONDS
    correction: Correction | None = None
    source: Source = "data sheet"

    def compute_dtype(self, weights: str) -> str:
        """What products with weights of this dtype are computed in here."""
        for dtype in FALLBACK[weights]:
            if dtype in self.flops_per_second:
                return dtype
        known = ", ".join(self.flops_per_second) or "none"
        raise GrainlineError(f"device type '{self.name}': no rate is told that {weights} weights go with ({known}).")

    def seconds(self, op: Op) -> float:
        """Of one op, with what measured ops say of it."""
        base = self.uncorrected(op)
        return base if self.correction is None else self.correction.seconds(op, base)

    def uncorrected(self, op: Op) -> float:
        """By roofline alone."""
        reached = self.reached[op.family]
        if op.ranks > 1:
            return self._collective(op, reached)
        busy, waves = self._waves(op)
        wasted = 1.0 if self.units is None or waves <= 1 else math.ceil(waves) / waves
        rate = self.flops_per_second[op.dtype] * reached.flops * busy / wasted if op.flops else math.inf
        narrow = reached.dequantising if WIDTH[op.weights] < WIDTH[op.dtype] else 1.0
        # Half of the units draw all that memory gives.
        moved = op.bytes / (self.bytes_per_second * reached.memory * narrow * min(1.0, 2 * busy))
        return reached.start_seconds + reached.wave_seconds * max(0.0, waves - 1) + max(op.flops / rate, moved)

    def _waves(self, op: Op) -> tuple[float, float]:
        """The share of the units that have anything to do, and waves of tiles over them."""
        if self.units is None or math.isinf(op.tiles):
            return 1.0, 1.0
        return min(1.0, op.tiles * op.splits / self.units), op.tiles / self.units

    def _collective(self, op: Op, reached: Reached) -> float:
        """The sooner of two ways: everybody sends everything at once, or a ring that sends shares."""
        rate, g, start = self.link_bytes_per_second * reached.memory, op.ranks, reached.start_seconds
        share = (g - 1) / g * op.bytes / rate
        if op.family != "all-reduce":
            return start + share
        return min(start + (g - 1) * op.bytes / rate, 2 * start + 2 * share)


def speed_of(
    device: DeviceType, link_bytes_per_second: float = math.inf, reached: Mapping[Family, Reached] = ASSUMED
) -> Speed:
    """Of a device type of a cluster. What is told as measured is what large products and copies reach already."""
    if not device.memory or device.memory[0].bytes_per_second is None:
        raise GrainlineError(f"device type '{device.name}': its memory's size and rate aren't told; add them.")
    source = device.origin("flops_per_second").source
    if source in ("measured", "calibrated"):
        most_flops = max(r.flops for r in reached.values() if r.flops < 1)
        most_memory = max(r.memory for r in reached.values())
        reached = {
            f: replace(r, flops=min(1.0, r.flops / most_flops), memory=min(1.0, r.memory / most_memory))
            for f, r in reached.items()
        }
    tier = device.memory[0]
    return Speed(
        device.name,
        device.flops_per_second,
        float(tier.bytes_per_second or 0),
        float(tier.capacity_bytes),
        UNITS.get(device.name),
        link_bytes_per_second,
        reached,
        source=source,
    )


def link_rate(device: ListedDevice, ranks: int) -> float:
    """Bytes a second that a device sends to the others of a group in its node, by the catalogue: fabric, else slots.

    Through slots a message goes to the host and out again, so half of the slot's rate is left.
    """
    if ranks == 1:
        return math.inf
    name = device.fabric or device.slot
    if not name:
        raise GrainlineError(f"device type '{device.name}': the catalogue has no link between several of them.")
    link = catalogue().link(name)
    if link.groups_of is not None and ranks > link.groups_of:
        link = catalogue().link(device.slot)
    between = link.bytes_per_second * ((ranks - 1) if link.sharing == "pair" else 1)
    return between / 2 if link.place == "slot" else between


def listed_speed(name: str, ranks: int = 1, reached: Mapping[Family, Reached] = ASSUMED) -> Speed:
    """Of a device type by its name in the catalogue; `ranks` of them in a node."""
    listed = catalogue().device(name)
    return speed_of(listed.device, link_rate(listed, ranks), reached)
