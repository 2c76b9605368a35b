"""The devices of a cluster as one replica that splits every layer over all of them, with a pool or with links."""

from __future__ import annotations

from dataclasses import dataclass

from grainline.documents import Cluster, GrainlineError
from grainline.hardware.topology import topology
from grainline.plan.cost import BANDWIDTH_REACHED, Speed
from grainline.plan.tiers.collectives import Pool, ring_seconds
from grainline.plan.tiers.paging import Port

VALUE = 2  # bytes of an activation


@dataclass(frozen=True)
class Machine:
    """`ranks` devices alike. Rates are of one of them, as reached."""

    ranks: int
    device: str
    flops_per_second: float
    local_bytes_per_second: float
    local_bytes: float
    pool: Pool | None
    port_share: float  # of the pool's rate that is reached
    link_latency_seconds: float
    link_bytes_per_second: float
    floor_seconds: float | None = None  # of an all-reduce on links, however small; default: 2(N − 1) latencies

    def all_reduce_seconds(self, size_bytes: float) -> float:
        """Over every rank, through the pool where there is one."""
        if self.pool is not None and "notify" in self.pool.memory.operations:
            return self.pool.seconds("all-reduce", size_bytes)
        if self.ranks == 1:
            return 0.0
        hop = self.link_latency_seconds
        if self.floor_seconds is not None:
            hop = self.floor_seconds / (2 * (self.ranks - 1))
        return ring_seconds("all-reduce", self.ranks, size_bytes, hop, self.link_bytes_per_second)

    def port(self) -> Port:
        """A rank's way to the pool."""
        assert self.pool is not None
        rate = self.pool.bytes_per_second() * self.port_share
        return Port(rate, rate, self.pool.latency_seconds("read"), self.pool.latency_seconds("write"))


def machine_of(cluster: Cluster, dtype: str, *, ideal: bool = False, floor_seconds: float | None = None) -> Machine:
    """All devices of a cluster, which must be of one type with a size and a rate of memory.

    `ideal`: rates as published; otherwise the shares of them that the planner takes to be reached. `floor_seconds` is
    what the smallest all-reduce on links takes. Raises GrainlineError where devices are unlike or a figure is missing.
    """
    wires = topology(cluster)
    kinds = {device.type.name for device in wires.devices}
    if len(kinds) > 1:
        raise GrainlineError(
            f"the cluster has devices of {len(kinds)} types ({', '.join(sorted(kinds))}); one is wanted."
        )
    device = wires.devices[0].type
    if not device.memory or device.memory[0].bytes_per_second is None:
        raise GrainlineError(f"device type '{device.name}': memory.bytes_per_second isn't told; add it.")
    speed = Speed.of(device, dtype)
    ranks, pool = len(wires.devices), Pool.of(cluster)
    if pool is not None and pool.ranks != ranks:
        raise GrainlineError(
            f"shared_memory '{pool.memory.name}': {pool.ranks} of {ranks} devices have a port; all must, or leave the "
            "others out."
        )
    latency, rate = 0.0, float("inf")
    if ranks > 1 and pool is None:
        latency = max(wires.latency_seconds(0, other) for other in range(1, ranks))
        rate = min(wires.bytes_per_second(0, other) for other in range(1, ranks))
    return Machine(
        ranks,
        device.name,
        device.flops_per_second[dtype] if ideal else speed.flops_per_second,
        device.memory[0].bytes_per_second if ideal else speed.bytes_per_second,
        float(device.memory[0].capacity_bytes),
        pool,
        1.0 if ideal or pool is None else BANDWIDTH_REACHED[pool.memory.source],
        latency,
        rate,
        floor_seconds,
    )
