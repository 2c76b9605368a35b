"""Fleet: a cluster's devices in the order of ranks, and what messages among groups of them cost.

A digest of the topology that thousands of strategies can be asked about: of each group the members per node, the
slowest way inside nodes and the slowest between them, and who else uses the same wires at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from grainline.documents import Cluster, GrainlineError
from grainline.documents.cluster import DeviceType
from grainline.hardware.topology import Topology, topology
from grainline.plan.seats import computing


@dataclass(frozen=True)
class Ways:
    """A cluster's wires between nodes and inside them, asked once for each pair."""

    wires: Topology
    alike: tuple[int, ...]  # of each device the class of its node; nodes of a class are the same to everybody
    node_of: tuple[int, ...]
    measured: bool
    _known: dict[tuple[int, ...], tuple[float, float]] = field(default_factory=dict)

    def between(self, a: int, b: int) -> tuple[float, float]:
        """Bytes per second and seconds of a message alone from device a to device b."""
        if self.node_of[a] == self.node_of[b] or self.measured:
            key: tuple[int, ...] = (a, b)
        else:
            key = (-1 - self.alike[a], -1 - self.alike[b], self._place(a), self._place(b))
        if key not in self._known:
            self._known[key] = self.wires.bytes_per_second(a, b), self.wires.latency_seconds(a, b)
        return self._known[key]

    @cached_property
    def _first(self) -> dict[int, int]:
        first: dict[int, int] = {}
        for device, node in enumerate(self.node_of):
            first.setdefault(node, device)
        return first

    def _place(self, device: int) -> int:
        return device - self._first[self.node_of[device]]

    @cached_property
    def leaving(self) -> tuple[float, ...]:
        """Of each node, bytes per second that all its devices together send to others, everybody sending at once."""
        nodes = max(self.node_of) + 1
        if nodes == 1:
            return (math.inf,)
        narrow: dict[int, set[int]] = {}
        for device, node in enumerate(self.node_of):
            other = self._first[(node + 1) % nodes]
            if not self.wires.joined(device, other):
                continue
            route = self.wires.route(device, other)
            narrow.setdefault(node, set()).add(min(route, key=lambda i: self.wires.wires[i].bytes_per_second))
        users = Counter(wire for wires in narrow.values() for wire in wires)
        rate = {wire: self.wires.wires[wire].bytes_per_second / count for wire, count in users.items()}
        return tuple(sum(rate[wire] for wire in narrow.get(node, ())) or math.inf for node in range(nodes))


@dataclass(frozen=True, slots=True)
class Ring:
    """What a collective of one kind of group meets; of all such groups, the slowest."""

    size: int
    nodes: int  # that a group spans
    local: int  # members of it in one node
    inside_bytes_per_second: float
    inside_latency: float
    across_bytes_per_second: float  # of each member, all groups sending at once
    across_latency: float

    def gather(self, count: float) -> float:
        """Seconds of an all-gather or reduce-scatter of `count` bytes in all (Patarasuk & Yuan 2009)."""
        if self.size == 1 or not count:
            return 0.0
        share = (self.size - 1) / self.size * count
        seconds = share / self.inside_bytes_per_second if self.local > 1 else 0.0
        if self.nodes > 1:
            seconds = max(seconds, (self.nodes - 1) / self.nodes * count / self.local / self.across_bytes_per_second)
        return seconds + self._hops()

    def reduce(self, count: float) -> float:
        """Seconds of an all-reduce of `count` bytes: a reduce-scatter and an all-gather."""
        return 2 * self.gather(count)

    def exchange(self, count: float) -> float:
        """Seconds of an all-to-all in which each member has `count` bytes for all, itself included."""
        if self.size == 1 or not count:
            return 0.0
        near = (self.local - 1) / self.size * count
        far = (self.size - self.local) / self.size * count
        seconds = max(
            near / self.inside_bytes_per_second if near else 0.0, far / self.across_bytes_per_second if far else 0.0
        )
        return seconds + self.across_latency * (self.nodes > 1) + self.inside_latency * (self.local > 1)

    def _hops(self) -> float:
        """Latency of a ring, or of a tree where that is less."""
        inside = min(self.local - 1, 2 * math.ceil(math.log2(self.local))) if self.local > 1 else 0
        across = min(self.nodes - 1, 2 * math.ceil(math.log2(self.nodes))) if self.nodes > 1 else 0
        return inside * self.inside_latency + across * self.across_latency


@dataclass(frozen=True)
class Fleet:
    """Devices in the order of ranks. `order[rank]` is a device of the topology."""

    ways: Ways
    order: tuple[int, ...]
    _rings: dict[tuple[int, int, int, int], Ring] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, cluster: Cluster, *, without: Sequence[str] = ()) -> Fleet:
        """All devices that compute (accelerators where there are any), fast types first, node by node.

        `without` names nodes that are left out. Raises GrainlineError where no device is left, or where two nodes
        aren't joined.
        """
        wires = topology(cluster)
        names = [name for name, _ in cluster.every_node()]
        for name in without:
            if name not in names:
                raise GrainlineError(f"--without {name}: the cluster has no node of that name, but {', '.join(names)}.")
        place = {name: i for i, name in enumerate(names)}
        kind = {name: i for i, node in enumerate(cluster.nodes) for name in cluster.named(node.name)}
        devices = [d for d in computing(wires) if d.node not in without]
        if not devices:
            raise GrainlineError("No device is left to plan for: the cluster has none, or all are left out.")
        named = bool(cluster.measured)
        ways = Ways(
            wires,
            tuple(kind[d.node] for d in wires.devices),
            tuple(place[d.node] for d in wires.devices),
            named,
        )
        best = {d.type.name: -max(d.type.flops_per_second.values(), default=0.0) for d in devices}
        ordered = sorted(devices, key=lambda d: (best[d.type.name], d.type.name, place[d.node], d.index))
        for device in ordered[1:]:
            if not wires.joined(ordered[0].index, device.index):
                raise GrainlineError(
                    f"'{ordered[0].node}' and '{device.node}' are not joined. Give the cluster a link between them, or "
                    f"leave one out (--without {device.node})."
                )
        return cls(ways, tuple(d.index for d in ordered))

    def reordered(self, order: Sequence[int]) -> Fleet:
        """The same devices with ranks in another order."""
        return Fleet(self.ways, tuple(order))

    def __len__(self) -> int:
        return len(self.order)

    def names(self, ranks: int) -> tuple[str, ...]:
        """NODE:0, NODE:1 … of the first so many ranks, as a plan names devices."""
        devices = self.ways.wires.devices
        first: dict[str, int] = {}
        for device in devices:
            first.setdefault(device.node, device.index)
        return tuple(f"{devices[i].node}:{i - first[devices[i].node]}" for i in self.order[:ranks])

    def type_of(self, rank: int) -> DeviceType:
        """The device of a rank."""
        return self.ways.wires.devices[self.order[rank]].type

    def node_of(self, rank: int) -> int:
        """The node of a rank, by its place in the cluster."""
        return self.ways.node_of[self.order[rank]]

    @cached_property
    def types(self) -> tuple[DeviceType, ...]:
        """Of each rank."""
        return tuple(self.type_of(rank) for rank in range(len(self)))

    @cached_property
    def uniform(self) -> bool:
        """Whether all devices are of one type, in nodes of one kind and number, joined alike."""
        kinds = {(self.types[r].name, self.ways.alike[self.order[r]]) for r in range(len(self))}
        counts = set(Counter(self.node_of(r) for r in range(len(self))).values())
        return len(kinds) == 1 and len(counts) == 1 and not self.ways.measured

    def ring(self, size: int, stride: int, start: int = 0, stop: int | None = None) -> Ring:
        """Groups of `size` ranks that lie `stride` apart, among ranks `start` … `stop` (a multiple of size × stride).

        Where all nodes are alike, the groups at the front stand for all.
        """
        if size == 1:
            return ALONE
        span = size * stride
        stop = len(self) // span * span if stop is None else stop
        if self.uniform:
            start, stop = 0, min(stop - start, self._period(span))
        key = (size, stride, start, stop)
        if key not in self._rings:
            self._rings[key] = self._measure(*key)
        return self._rings[key]

    def _period(self, span: int) -> int:
        """Ranks after which groups lie in nodes as the first did."""
        per_node = sum(self.node_of(r) == self.node_of(0) for r in range(len(self)))
        return min(math.lcm(span, per_node), len(self) // span * span)

    def _measure(self, size: int, stride: int, start: int, stop: int) -> Ring:
        inside, near, across, far = math.inf, 0.0, math.inf, 0.0
        nodes, local = 1, size
        crossing: Counter[int] = Counter()  # members per node that send to other nodes
        for first in range(start, stop, size * stride):
            for offset in range(stride):
                ranks = [first + offset + i * stride for i in range(size)]
                of_node = Counter(self.node_of(r) for r in ranks)
                nodes, local = max(nodes, len(of_node)), min(local, *of_node.values())
                if len(of_node) > 1:
                    crossing.update(of_node)
                for a, b in zip(ranks, ranks[1:] + ranks[:1], strict=True):
                    rate, latency = self.ways.between(self.order[a], self.order[b])
                    if self.node_of(a) == self.node_of(b):
                        inside, near = min(inside, rate), max(near, latency)
                    else:
                        across, far = min(across, rate), max(far, latency)
        for node, members in crossing.items():
            across = min(across, self.ways.leaving[node] / members)
        return Ring(size, nodes, local, inside, near, across, far)

    def hop(self, distance: int, start: int = 0, stop: int | None = None) -> Ring:
        """From each rank of `start` … `stop` to the one `distance` on, all at once: for messages between stages."""
        stop = len(self) - distance if stop is None else stop
        if self.uniform:
            start, stop = 0, min(stop - start, self._period(1))
        key = (-1, distance, start, stop)
        if key not in self._rings:
            rate, latency, crossing = math.inf, 0.0, Counter[int]()
            for rank in range(start, stop):
                r, seconds = self.ways.between(self.order[rank], self.order[rank + distance])
                rate, latency = min(rate, r), max(latency, seconds)
                if self.node_of(rank) != self.node_of(rank + distance):
                    crossing[self.node_of(rank)] += 1
            for node, members in crossing.items():
                rate = min(rate, self.ways.leaving[node] / members)
            self._rings[key] = Ring(2, 2, 1, rate, latency, rate, latency)
        return self._rings[key]

    def wrap(self, distance: int) -> Ring:
        """From the last `distance` ranks back to the first: between the chunks of an interleaved pipeline."""
        last = len(self) - distance
        key = (-2, distance, last, len(self))
        if key not in self._rings:
            pairs = [self.ways.between(self.order[last + i], self.order[i]) for i in range(distance)]
            rate, latency = min(r for r, _ in pairs), max(s for _, s in pairs)
            self._rings[key] = Ring(2, 2, 1, rate, latency, rate, latency)
        return self._rings[key]


ALONE = Ring(1, 1, 1, math.inf, 0.0, math.inf, 0.0)
"""A group of one: nothing is sent."""


def by_types(fleet: Fleet, names: Sequence[str]) -> Fleet:
    """Ranks ordered by device types as named, each type's in the order that they have."""
    place = {name: i for i, name in enumerate(names)}
    return fleet.reordered(
        [fleet.order[r] for r in sorted(range(len(fleet)), key=lambda r: place[fleet.types[r].name])]
    )
