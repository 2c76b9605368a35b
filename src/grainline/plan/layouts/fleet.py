"""Fleet: a cluster's devices in the order of ranks, and what joins groups of them.

A digest of the topology that thousands of strategies can be asked about: of each group the members per node, the
slowest way inside nodes and the slowest between them, and who else uses the same wires at once.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from grainline.documents import Cluster, GrainlineError, nearest
from grainline.documents.cluster import DeviceType, Source
from grainline.hardware.topology import Topology, topology
from grainline.plan.layouts.ring import ALONE, MEASURED, TOLD, Links, Ring
from grainline.plan.seats import computing

__all__ = ["ALONE", "Fleet", "Ring", "Ways"]


@dataclass(frozen=True)
class Ways:
    """A cluster's wires between nodes and inside them, asked once for each pair of places in alike nodes."""

    wires: Topology
    alike: tuple[int, ...]  # of each device the class of its node; nodes of a class are the same to everybody
    node_of: tuple[int, ...]
    measured: bool  # pair by pair: no two nodes are taken to be alike
    inside: Links
    across: Links
    sources: tuple[Source, Source]  # of links inside nodes, and of those between
    _known: dict[tuple[int, ...], tuple[float, float]] = field(default_factory=dict)

    def between(self, a: int, b: int) -> tuple[float, float]:
        """Bytes per second and seconds of a message alone from device a to device b, as reached."""
        same = self.node_of[a] == self.node_of[b]
        if self.measured:
            key: tuple[int, ...] = (a, b)
        else:
            key = (self.alike[a], self.alike[b], self.place(a), self.place(b), same)
        if key not in self._known:
            reach = self.inside.inside if same else self.across.across
            self._known[key] = reach * self.wires.bytes_per_second(a, b), self.wires.latency_seconds(a, b)
        return self._known[key]

    def shared(self, pairs: Sequence[tuple[int, int]]) -> float:
        """Bytes per second of each message where so many pairs of devices send at once: the least that a wire leaves.

        Only of pairs that were measured, or in nodes of unlike kinds: among alike nodes `leaving` says it of all.
        """
        users: Counter[int] = Counter()
        for a, b in pairs:
            if self.measured or self.alike[a] != self.alike[b]:
                users.update(self.wires.route(a, b))
        wires = self.wires.wires
        rates = (wires[wire].bytes_per_second / count for wire, count in users.items())
        return self.across.across * min(rates, default=math.inf)

    @cached_property
    def first(self) -> dict[int, int]:
        """Of each node its first device."""
        first: dict[int, int] = {}
        for device, node in enumerate(self.node_of):
            first.setdefault(node, device)
        return first

    def place(self, device: int) -> int:
        """Of a device in its node."""
        return device - self.first[self.node_of[device]]

    @cached_property
    def leaving(self) -> tuple[float, ...]:
        """Of each node, bytes per second that all its devices together send to others, everybody sending at once.

        Where pairs were measured `shared` knows better, and this bounds nothing.
        """
        nodes = max(self.node_of) + 1
        if nodes == 1 or self.measured:
            return (math.inf,) * nodes
        known: dict[int, float] = {}
        found = []
        for node in range(nodes):
            kind = node if node not in self.first else -1 - self.alike[self.first[node]]
            if kind not in known:
                known[kind] = self.across.across * self._leaving(node, nodes)
            found.append(known[kind])
        return tuple(found)

    def _leaving(self, node: int, nodes: int) -> float:
        other = self.first.get((node + 1) % nodes)
        mine = [device for device, at in enumerate(self.node_of) if at == node]
        rates: dict[int, float] = {}
        for device in mine:
            if other is None or not self.wires.joined(device, other):
                continue
            wires = self.wires.wires
            narrow = min(self.wires.route(device, other), key=lambda i: wires[i].bytes_per_second)
            rates[narrow] = wires[narrow].bytes_per_second
        return sum(rates.values()) or math.inf


LINKS: Mapping[Source, Links] = {"measured": MEASURED, "calibrated": MEASURED}
"""What messages reach of a link's rate, by where that is from; of all others TOLD."""


class Region(NamedTuple):
    """Ranks start … stop - 1: whole nodes one after another, alike and with as many ranks each."""

    start: int
    stop: int
    per_node: int


@dataclass(frozen=True)
class Fleet:
    """Devices in the order of ranks. `order[rank]` is a device of the topology."""

    ways: Ways
    order: tuple[int, ...]
    _rings: dict[tuple[int, int, int, int], Ring] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, cluster: Cluster, *, without: Sequence[str] = (), links: Links | None = None) -> Fleet:
        """All devices that compute (accelerators where there are any), fast types first, node by node.

        `without` names nodes that are left out; `links` is what messages reach, by default as the links' rates are
        measured or told. Raises GrainlineError where no device is left, or where two nodes aren't joined.
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
        inside, across = (_source(cluster, ends) for ends in (1, 2))
        ways = Ways(
            wires,
            tuple(kind[d.node] for d in wires.devices),
            tuple(place[d.node] for d in wires.devices),
            cluster.measured is not None,
            links or LINKS.get(inside, TOLD),
            links or LINKS.get(across, TOLD),
            (inside, across),
        )
        best = {d.type.name: -max(d.type.flops_per_second.values(), default=0.0) for d in devices}
        ordered = sorted(devices, key=lambda d: (best[d.type.name], d.type.name, place[d.node], d.index))
        joined: set[tuple[int, ...]] = set()
        for device in ordered[1:]:
            key = (device.index,) if ways.measured else (ways.alike[device.index], ways.place(device.index))
            if key in joined:
                continue
            joined.add(key)
            if not wires.joined(ordered[0].index, device.index):
                raise GrainlineError(
                    f"'{ordered[0].node}' and '{device.node}' are not joined. Give the cluster a link between them, or "
                    f"leave one out (--without {device.node})."
                )
        return cls(ways, tuple(d.index for d in ordered))

    def seated(self, names: Sequence[str]) -> Fleet:
        """Ranks on the devices that a plan names (NODE:0 …); GrainlineError for one that isn't there, or is twice."""
        devices = self.ways.wires.devices
        known = {f"{devices[i].node}:{self.ways.place(i)}": i for i in self.order}
        for name in names:
            if name not in known:
                raise GrainlineError(f"layout.devices: the cluster has no '{name}'.{nearest(name, known)}")
        if len(set(names)) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise GrainlineError(f"layout.devices: '{twice}' is named twice.")
        return self.reordered([known[name] for name in names])

    def reordered(self, order: Sequence[int]) -> Fleet:
        """The same devices with ranks in another order."""
        return Fleet(self.ways, tuple(order))

    def __len__(self) -> int:
        return len(self.order)

    def names(self, ranks: int) -> tuple[str, ...]:
        """NODE:0, NODE:1 … of the first so many ranks, as a plan names devices."""
        devices = self.ways.wires.devices
        return tuple(f"{devices[i].node}:{self.ways.place(i)}" for i in self.order[:ranks])

    def node_of(self, rank: int) -> int:
        """The node of a rank, by its place in the cluster."""
        return self.nodes[rank]

    @cached_property
    def types(self) -> tuple[DeviceType, ...]:
        """Of each rank."""
        return tuple(self.ways.wires.devices[i].type for i in self.order)

    @cached_property
    def nodes(self) -> tuple[int, ...]:
        """Of each rank."""
        return tuple(self.ways.node_of[i] for i in self.order)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Runs of alike nodes, in the order of ranks; where pairs were measured no two are alike."""
        found: list[tuple[Region, object]] = []
        start = 0
        for stop in range(1, len(self) + 1):
            if stop < len(self) and self.nodes[stop] == self.nodes[start]:
                continue
            ranks = range(start, stop)
            alike = tuple((self.ways.alike[self.order[r]], self.ways.place(self.order[r])) for r in ranks)
            kind = (start,) if self.ways.measured else (tuple(self.types[r].name for r in ranks), alike)
            if found and found[-1][1] == kind:
                found[-1] = found[-1][0]._replace(stop=stop), kind
            else:
                found.append((Region(start, stop, stop - start), kind))
            start = stop
        return tuple(region for region, _ in found)

    @cached_property
    def uniform(self) -> bool:
        """Whether all devices are of one type, in nodes of one kind and number, joined alike."""
        return len(self.regions) == 1

    def ring(self, size: int, stride: int, start: int = 0, stop: int | None = None) -> Ring:
        """Groups of `size` ranks that lie `stride` apart, among ranks `start` … `stop` (a multiple of size × stride).

        Where nodes are alike, the groups at their front stand for all.
        """
        if size == 1:
            return ALONE
        span = size * stride
        stop = len(self) // span * span if stop is None else stop
        key = (size, stride, *self._front(start, stop, span))
        if key not in self._rings:
            self._rings[key] = self._measure(*key)
        return self._rings[key]

    def _front(self, start: int, stop: int, span: int) -> tuple[int, int]:
        """Ranks that stand for those of start … stop: where all lie in one region, as far as its nodes repeat."""
        region = self.regions[bisect_right(self.regions, start, key=lambda r: r.start) - 1]
        if stop > region.stop:
            return start, stop
        first = region.start + (start - region.start) % region.per_node
        return first, first + min(stop - start, math.lcm(span, region.per_node))

    def _measure(self, size: int, stride: int, start: int, stop: int) -> Ring:
        inside, near, across, far = math.inf, 0.0, math.inf, 0.0
        nodes, local = 1, size
        crossing: Counter[int] = Counter()  # members per node that send to other nodes
        sends: list[tuple[int, int]] = []  # of each member to its like in the next node
        for first in range(start, stop, size * stride):
            for offset in range(stride):
                ranks = [first + offset + i * stride for i in range(size)]
                of_node = Counter(self.nodes[r] for r in ranks)
                sends += self._rails(ranks)
                nodes, local = max(nodes, len(of_node)), min(local, *of_node.values())
                if len(of_node) > 1:
                    crossing.update(of_node)
                for a, b in zip(ranks, ranks[1:] + ranks[:1], strict=True):
                    rate, latency = self.ways.between(self.order[a], self.order[b])
                    if self.nodes[a] == self.nodes[b]:
                        inside, near = min(inside, rate), max(near, latency)
                    else:
                        across, far = min(across, rate), max(far, latency)
        for node, members in crossing.items():
            across = min(across, self.ways.leaving[node] / members)
        across = min(across, self.ways.shared(sends))
        begin = (self.ways.across if nodes > 1 else self.ways.inside).start_seconds
        shared = nodes > 1 and local > 1 and self._one_port([start + i * stride for i in range(size)])
        return Ring(size, nodes, local, inside, near, across, far, begin, shared)

    def _one_port(self, group: Sequence[int]) -> bool:
        """Whether the first of a group sends to members in its node and to others over the same wire."""
        first, route = group[0], self.ways.wires.route
        near = next((r for r in group[1:] if self.nodes[r] == self.nodes[first]), None)
        far = next((r for r in group[1:] if self.nodes[r] != self.nodes[first]), None)
        if near is None or far is None:
            return False
        return bool({*route(self.order[first], self.order[near])} & {*route(self.order[first], self.order[far])})

    def _rails(self, ranks: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Devices that send to devices of the next node in a ring, each member of a node to its like."""
        of_node: dict[int, list[int]] = {}
        for rank in ranks:
            of_node.setdefault(self.nodes[rank], []).append(self.order[rank])
        members = list(of_node.values())
        if len(members) > 1:
            for here, there in zip(members, members[1:] + members[:1], strict=True):
                yield from ((device, there[i % len(there)]) for i, device in enumerate(here))

    def hop(self, distance: int, start: int = 0, stop: int | None = None) -> Ring:
        """From each rank of `start` … `stop` to the one `distance` on, all at once: for messages between stages.

        A negative distance goes back, as between the chunks of an interleaved pipeline.
        """
        stop = len(self) - distance if stop is None else stop
        if self.uniform and distance > 0:
            per_node = self.regions[0].per_node
            start, stop = start % per_node, start % per_node + min(stop - start, per_node)
        key = (-1, distance, start, stop)
        if key not in self._rings:
            self._rings[key] = self._between(distance, start, stop)
        return self._rings[key]

    def _between(self, distance: int, start: int, stop: int) -> Ring:
        rate, latency, crossing = math.inf, 0.0, Counter[int]()
        sends = []
        for rank in range(start, stop):
            r, seconds = self.ways.between(self.order[rank], self.order[rank + distance])
            rate, latency = min(rate, r), max(latency, seconds)
            if self.nodes[rank] != self.nodes[rank + distance]:
                crossing[self.nodes[rank]] += 1
                sends.append((self.order[rank], self.order[rank + distance]))
        for node, members in crossing.items():
            rate = min(rate, self.ways.leaving[node] / members)
        rate = min(rate, self.ways.shared(sends))
        begin = (self.ways.across if crossing else self.ways.inside).start_seconds
        return Ring(2, 2 if crossing else 1, 1, rate, latency, rate, latency, begin)


def _source(cluster: Cluster, ends: int) -> Source:
    """Where the rates of links inside nodes (1) or between them (2) come from: the least certain of them."""
    if cluster.measured is not None and (ends == 2 or any(":" in name for name in cluster.measured.names)):
        return "measured"
    order: tuple[Source, ...] = ("measured", "calibrated", "data sheet", "extrapolated", "assumed")
    found: set[Source] = {link.source for link in cluster.links if len(link.between) == ends}
    return max(found, key=order.index, default="assumed")
