"""Seats: which device each rank of a pipeline sits on, and how fast and how large that is for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from grainline.documents import Cluster, GrainlineError, Recipe
from grainline.hardware.topology import Device, Topology
from grainline.plan.cost import Speed

NARROW_GAIN = 1.2
"""How many times faster bfloat16 must be than float32 on every device before it is taken."""


@dataclass(frozen=True)
class Seat:
    """A rank's place. Several ranks may share a CPU; each then has its share of the rates and of the memory."""

    device: Device
    share: float
    speed: Speed
    capacity_bytes: float  # infinite where the cluster doesn't say

    @property
    def about(self) -> str:
        """For people: e.g. "A10G in a", "half of a CPU"."""
        part = "" if self.share == 1 else f"1/{round(1 / self.share)} of "
        return f"{part}{self.device.type.name} in {self.device.node}"


def computing(topology: Topology) -> tuple[Device, ...]:
    """The devices that ranks sit on: accelerators where there are any, else CPUs."""
    accelerators = tuple(d for d in topology.devices if d.type.kind != "cpu")
    return accelerators or topology.devices


def compute_dtype(recipe: Recipe, devices: Sequence[Device]) -> str:
    """What the recipe says, or bfloat16 where every device is faster in it, else float16 or float32, what all have."""
    wanted = recipe.precision.compute
    if wanted != "auto":
        return wanted
    rates = [d.type.flops_per_second for d in devices]
    if all("bfloat16" in of and of["bfloat16"] >= NARROW_GAIN * of.get("float32", 0.0) for of in rates):
        return "bfloat16"
    return "float32"


def seats(topology: Topology, ranks: int, replicas: int, dtype: str) -> tuple[Seat, ...]:
    """Of each pipeline rank; replicas of it sit on the devices that follow, and the slowest of them counts.

    Raises GrainlineError where there are fewer devices than ranks, unless they are CPUs with cores enough.
    """
    devices = computing(topology)
    wanted = ranks * replicas
    shares = 1
    if wanted > len(devices):
        if any(d.type.kind != "cpu" for d in devices):
            raise GrainlineError(
                f"{_count(ranks, replicas)} need {wanted} devices, and the cluster has {_listed(devices)}. Take fewer "
                "ranks, or another cluster."
            )
        shares = -(-wanted // len(devices))
    found = []
    for rank in range(ranks):
        group = {r * len(devices) // wanted if shares > 1 else r for r in range(rank * replicas, (rank + 1) * replicas)}
        sitting = [_seat(devices[i], 1 / shares, dtype) for i in sorted(group)]
        found.append(min(sitting, key=lambda seat: seat.speed.flops_per_second))
    return tuple(found)


def check_cores(cluster: Cluster, chosen: Sequence[Seat]) -> str | None:
    """What to tell a person who gives a CPU more ranks than cores."""
    nodes = dict(cluster.every_node())
    for seat in chosen:
        cores, each = nodes[seat.device.node].cores, round(1 / seat.share)
        if seat.device.type.kind == "cpu" and cores is not None and each > cores:
            return f"{each} ranks share the {cores} cores of '{seat.device.node}'."
    return None


def _seat(device: Device, share: float, dtype: str) -> Seat:
    memory = device.type.memory
    room = memory[0].capacity_bytes * share if memory else float("inf")
    return Seat(device, share, Speed.of(device.type, dtype, share), room)


def _count(ranks: int, replicas: int) -> str:
    return f"{ranks} ranks" if replicas == 1 else f"{replicas} pipelines of {ranks} ranks"


def _listed(devices: Sequence[Device]) -> str:
    return ", ".join(f"{n} × {name}" for name, n in Counter(d.type.name for d in devices).items())
