"""The ranks that hold experts: which node each is in, what it computes, and what messages between them take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from grainline.documents import Cluster, GrainlineError
from grainline.hardware.topology import topology
from grainline.plan.cost import Speed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ExpertRanks:
    """G ranks. Rates between two may differ by direction; from a rank to itself they are infinite.

    crossed: [wires, G·G] of 0 and 1, which pairs' messages cross a wire; wires: bytes per second of each.
    Operations and bytes of memory per second are each rank's, as reached.
    """

    node_G: tuple[int, ...]
    bytes_per_second_GG: Floats
    latency_seconds_GG: Floats
    crossed: csr_array
    wires: Floats
    flops_per_second_G: Floats
    memory_bytes_per_second_G: Floats

    def __post_init__(self) -> None:
        rates, count = self.bytes_per_second_GG, len(self.node_G)
        if rates.shape != (count, count):
            raise GrainlineError(
                f"rates between {count} expert ranks fill a table {count} × {count}, not {rates.shape}."
            )
        for a in range(count):
            for b in range(count):
                if a != b and not rates[a, b] > 0:  # NaN as well
                    raise GrainlineError(
                        f"the rate from expert rank {a} to {b} is {rates[a, b]:g} bytes per second: must be positive."
                    )
        if not (np.diag(rates) == np.inf).all():
            raise GrainlineError("the rate from an expert rank to itself is infinite: nothing is sent.")

    @property
    def count(self) -> int:
        """G."""
        return len(self.node_G)

    @cached_property
    def nodes(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each node, in the order of its first."""
        order = sorted(set(self.node_G), key=self.node_G.index)
        return tuple(tuple(rank for rank, node in enumerate(self.node_G) if node == each) for each in order)

    @cached_property
    def apart_GG(self) -> NDArray[np.int8]:
        """0: the same rank, 1: the same node, 2: another node."""
        node = np.array(self.node_G)
        return (1 + (node[:, None] != node) - np.eye(self.count)).astype(np.int8)

    def seconds(self, bytes_GG: Floats) -> float:
        """Of messages that go all at once: the wire that has most to carry for its rate, and the longest latency.

        So pairs that share a wire, such as a NIC, share its rate.
        """
        off_GG = bytes_GG * (self.apart_GG > 0)
        if not off_GG.any():
            return 0.0
        busiest = float((self.crossed @ off_GG.ravel() / self.wires).max())
        return busiest + float(self.latency_seconds_GG[off_GG > 0].max())

    def pair_seconds(self, bytes_GG: Floats) -> float:
        """Of the slowest pair, as if each had its route for itself (MoETuner's tail)."""
        return float((bytes_GG / self.bytes_per_second_GG).max())


def ranks_of(cluster: Cluster, count: int | None = None, dtype: str = "bfloat16") -> ExpertRanks:
    """The first `count` devices of a cluster (default: all) as expert ranks.

    Raises GrainlineError for more ranks than devices, and where two of them can't reach each other.
    """
    wires = topology(cluster)
    count = len(wires.devices) if count is None else count
    if not 1 <= count <= len(wires.devices):
        raise GrainlineError(f"{count} expert ranks: the cluster has {len(wires.devices)} devices.")
    devices = wires.devices[:count]
    names = list(dict.fromkeys(device.node for device in devices))
    rates, latencies = np.full((count, count), np.inf), np.zeros((count, count))
    rows: list[int] = []
    columns: list[int] = []
    for a in range(count):
        for b in range(count):
            if a != b:
                route = wires.route(a, b)
                rows += route
                columns += [a * count + b] * len(route)
                rates[a, b] = min(wires.wires[i].bytes_per_second for i in route)
                latencies[a, b] = sum(wires.wires[i].latency_seconds for i in route)
    speeds = [Speed.of(device.type, dtype) for device in devices]
    return ExpertRanks(
        tuple(names.index(device.node) for device in devices),
        rates,
        latencies,
        csr_array((np.ones(len(rows)), (rows, columns)), shape=(max(1, len(wires.wires)), count * count)),
        np.array([wire.bytes_per_second for wire in wires.wires] or [1.0]),
        np.array([speed.flops_per_second for speed in speeds]),
        np.array([speed.bytes_per_second for speed in speeds]),
    )


def ranks_between(node_G: Sequence[int], bytes_per_second_GG: Floats, flops_per_second: float = 1e15) -> ExpertRanks:
    """Ranks alike, of which every two have a wire of their own: a table of rates is all there is to know."""
    count = len(node_G)
    rates = np.array(bytes_per_second_GG, dtype=np.float64)
    if rates.shape == (count, count):
        np.fill_diagonal(rates, np.inf)
    every = np.arange(count * count)
    return ExpertRanks(
        tuple(node_G),
        rates,
        np.zeros((count, count)),
        csr_array((np.ones(count * count), (every, every)), shape=(count * count, count * count)),
        rates.ravel(),
        np.full(count, flops_per_second),
        np.full(count, np.inf),
    )
