"""Topology: a cluster's devices one by one, and the wires that a message between two of them crosses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from grainline.documents import Cluster, GrainlineError
from grainline.documents.cluster import DeviceType
from grainline.hardware.routing import Edge, Routing


@dataclass(frozen=True)
class Device:
    """One device: its place in `Topology.devices`, the name of its node, and what it is."""

    index: int
    node: str
    type: DeviceType


@dataclass(frozen=True)
class Wire:
    """One direction of a link, or a link whose directions share its rate. Messages that cross it at once share it."""

    name: str
    bytes_per_second: float
    latency_seconds: float


@dataclass(frozen=True)
class Topology:
    """Devices and wires. `edges` say what the wires join: device i is vertex i, the others are hosts and switches.

    `zones` gives each vertex the node that it lies in (see `Routing`), `hosts` the vertices by which traffic enters and
    leaves the host of each node. `measured` gives pairs (of nodes by name, or of devices by index) a wire of their own,
    which their route crosses as well.
    """

    devices: tuple[Device, ...]
    wires: tuple[Wire, ...]
    edges: tuple[Edge, ...] = ()
    zones: tuple[int, ...] = ()
    hosts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    measured: Mapping[tuple[str, str] | tuple[int, int], int] = field(default_factory=dict)

    def joined(self, a: int, b: int) -> bool:
        """Whether a message can go from device a to device b."""
        return self._routing.way(a, b).width > 0

    def route(self, a: int, b: int) -> tuple[int, ...]:
        """Indices of the wires that a message from device a to device b crosses, in order; () from a to itself.

        The way whose narrowest wire is widest; of those the one of least latency, then of fewest steps. Devices pass
        nothing on. Raises GrainlineError where there is no way.
        """
        if a == b:
            return ()
        nodes = self.devices[a].node, self.devices[b].node
        if not self.joined(a, b):
            raise GrainlineError(f"there is no way from device {a} (in '{nodes[0]}') to device {b} (in '{nodes[1]}').")
        own = self.measured.get((a, b), self.measured.get(nodes))  # of the two devices, or else of their nodes
        found = self._routing.way(a, b).wires
        return found if own is None else (*found, own)

    def host_routes(self, device: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Indices of the wires that a copy crosses from a device to its host's memory, and back."""
        enter, leave = self.hosts[self.devices[device].node]
        return self._routing.way(device, enter).wires, self._routing.way(leave, device).wires

    def bytes_per_second(self, a: int, b: int) -> float:
        """What one message alone gets from a to b: the narrowest wire's rate; infinite from a to itself."""
        return min((self.wires[i].bytes_per_second for i in self.route(a, b)), default=float("inf"))

    def latency_seconds(self, a: int, b: int) -> float:
        """What an empty message takes from a to b."""
        return sum(self.wires[i].latency_seconds for i in self.route(a, b))

    @cached_property
    def _routing(self) -> Routing:
        rates, latencies = ([getattr(w, key) for w in self.wires] for key in ("bytes_per_second", "latency_seconds"))
        return Routing(len(self.devices), self.edges, tuple(rates), tuple(latencies), self.zones)


def topology(cluster: Cluster) -> Topology:
    """The devices of a cluster, in the order of its nodes, and the wires between them.

    A device reaches its host over the node's links, or where none has both over one that is assumed (see
    `grainline.hardware.wiring`); the host reaches other nodes through its NICs, where it has any.
    """
    from grainline.hardware.wiring import draw

    return draw(cluster)
