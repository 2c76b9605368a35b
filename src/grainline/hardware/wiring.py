"""From a Cluster to vertices and wires.

A host and a switch have two sides each, one that traffic enters by and one that it leaves by, so that nothing passes
through a node that doesn't forward. Between a device and its host lies a slot (also of two sides), to which the node's
NICs are nearest: NIC i of n serves the i-th share of the accelerators.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations

from grainline.documents import Cluster
from grainline.documents.cluster import DeviceType, Link, Nic, Node, Switch
from grainline.hardware.routing import FREE, OPEN, Edge
from grainline.hardware.topology import Device, Topology, Wire

ASSUMED_BYTES_PER_SECOND = 12e9
"""Between a GPU and its host, where the cluster doesn't say: what PCIe 3.0 x16 (15.75 GB/s) leaves to large copies."""
ASSUMED_LATENCY_SECONDS = 5e-6
"""From a device to its host, where the cluster doesn't say."""


@dataclass(frozen=True)
class Sides:
    """The vertices by which traffic enters and leaves something."""

    enter: int
    leave: int


@dataclass
class Drawing:
    """Vertices, wires and edges so far."""

    zones: list[int]  # by vertex, see `Routing`
    wires: list[Wire] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)

    def vertex(self, zone: int) -> int:
        """A new one."""
        self.zones.append(zone)
        return len(self.zones) - 1

    def sides(self, zone: int) -> Sides:
        """Two new vertices."""
        return Sides(self.vertex(zone), self.vertex(zone))

    def edge(self, start: int, end: int, wire: int = FREE) -> None:
        """Join two vertices, in one direction."""
        self.edges.append(Edge(start, end, wire))

    def wire(self, name: str, bytes_per_second: float, latency_seconds: float) -> int:
        """A new one; a name used before gets a number."""
        self.names[name] += 1
        name = name if self.names[name] == 1 else f"{name} #{self.names[name]}"
        self.wires.append(Wire(name, bytes_per_second, latency_seconds))
        return len(self.wires) - 1

    def both_ways(self, a: Sides, b: Sides, names: tuple[str, str], link: Link, rate: float, seconds: float) -> None:
        """A link from what leaves a into b and back: two wires, or one where it is half-duplex."""
        there = self.wire(names[0], rate, seconds)
        back = there if link.duplex == "half" else self.wire(names[1], rate, seconds)
        self.edge(a.leave, b.enter, there)
        self.edge(b.leave, a.enter, back)


@dataclass
class Place:
    """One node in the drawing: its host, its devices, their slots, and what its NICs lead to, by type."""

    name: str
    node: Node
    zone: int
    devices: range
    types: tuple[DeviceType, ...]
    host: Sides
    slots: dict[int, list[Sides]] = field(default_factory=dict)  # of devices that reach the host; a bus has none
    outlets: dict[str, Sides] = field(default_factory=dict)


def draw(cluster: Cluster) -> Topology:
    """The topology of a cluster; see `grainline.hardware.topology.topology`."""
    types = {device.name: device for device in cluster.device_types}
    devices: list[Device] = []
    nodes: list[tuple[str, Node, range]] = []
    for name, node in cluster.every_node():
        first = len(devices)
        for device, count in node.devices.items():
            devices += [Device(len(devices) + i, name, types[device]) for i in range(count)]
        nodes.append((name, node, range(first, len(devices))))
    zones = [OPEN if node.forwards else i for i, (_, node, _) in enumerate(nodes)]
    drawing = Drawing([zone for zone, (_, _, mine) in zip(zones, nodes, strict=True) for _ in mine])
    places: dict[str, Place] = {}
    for zone, (name, node, mine) in zip(zones, nodes, strict=True):
        kinds = tuple(devices[i].type for i in mine)
        places[name] = Place(name, node, zone, mine, kinds, drawing.sides(zone))
        _inside(drawing, places[name], cluster.inside(node, name))
    switches = {switch.name: (_switch(drawing, switch), switch.latency_seconds) for switch in cluster.switches}
    for link, a, b in cluster.joints():
        _between(drawing, link, (a, b), places, switches)
    hosts = {name: (place.host.enter, place.host.leave) for name, place in places.items()}
    drawn = Topology(tuple(devices), tuple(drawing.wires), tuple(drawing.edges), tuple(drawing.zones), hosts)
    return _measured(cluster, drawing, drawn, places)


def _inside(drawing: Drawing, place: Place, links: tuple[Link, ...]) -> None:
    host = place.host
    drawing.edge(host.leave, host.enter)
    if place.node.forwards:
        drawing.edge(host.enter, host.leave)
    for link in links:
        on = [d for d, t in zip(place.devices, place.types, strict=True) if not link.joins or t.name in link.joins]
        size = link.groups_of or len(on)
        for start in range(0, len(on), size):
            {"port": _ports, "pair": _pairs, "all": _bus}[link.sharing](drawing, place, link, on[start : start + size])
    for device, kind in zip(place.devices, place.types, strict=True):
        if device not in place.slots:
            told = [_rate(link) for link in links if not link.joins or kind.name in link.joins]
            _slot(drawing, place, device, "host", (_assumed(kind, told), ASSUMED_LATENCY_SECONDS), "full")


def _assumed(kind: DeviceType, told: list[float]) -> float:
    """Bytes per second between a device and its host; no more than over the links that were told.

    A CPU's copies go at its memory's rate.
    """
    memory = kind.memory[0].bytes_per_second if kind.kind == "cpu" and kind.memory else None
    return min(memory or ASSUMED_BYTES_PER_SECOND, *told, float("inf"))


def _label(place: Place, device: int) -> str:
    return f"{place.name}:{device - place.devices.start}"


def _slot(drawing: Drawing, place: Place, device: int, where: str, figures: tuple[float, float], duplex: str) -> None:
    """Put a device on its host over wires of its own."""
    slot, label = drawing.sides(place.zone), _label(place, device)
    there = drawing.wire(f"{label} → {where}", *figures)
    back = there if duplex == "half" else drawing.wire(f"{where} → {label}", *figures)
    drawing.edge(device, slot.leave, there)
    drawing.edge(slot.enter, device, back)
    drawing.edge(slot.leave, place.host.leave)
    drawing.edge(place.host.enter, slot.enter)
    place.slots.setdefault(device, []).append(slot)


def _ports(drawing: Drawing, place: Place, link: Link, devices: list[int]) -> None:
    rate, half = _rate(link), link.latency_seconds / 2  # a message crosses two ports
    name = link.name or link.type or "fabric"
    if link.host:
        for device in devices:
            _slot(drawing, place, device, name, (rate, half), link.duplex)
        return
    hub = drawing.vertex(place.zone)
    for device in devices:
        names = f"{_label(place, device)} → {name}", f"{name} → {_label(place, device)}"
        drawing.both_ways(Sides(device, device), Sides(hub, hub), names, link, rate, half)


def _pairs(drawing: Drawing, place: Place, link: Link, devices: list[int]) -> None:
    for a, b in combinations(devices, 2):
        names = f"{_label(place, a)} → {_label(place, b)}", f"{_label(place, b)} → {_label(place, a)}"
        drawing.both_ways(Sides(a, a), Sides(b, b), names, link, _rate(link), link.latency_seconds)


def _bus(drawing: Drawing, place: Place, link: Link, devices: list[int]) -> None:
    """One line that all share: it is crossed once, whoever speaks to whom."""
    line = drawing.wire(f"{place.name} {link.name or link.type or 'bus'}", _rate(link), link.latency_seconds)
    bus = drawing.vertex(place.zone)
    for device in devices:
        drawing.edge(device, bus, line)
        drawing.edge(bus, device)
        if link.host:
            place.slots.setdefault(device, [])
    if link.host:
        drawing.edge(bus, place.host.leave)
        drawing.edge(place.host.enter, bus, line)


def _rate(link: Link) -> float:
    assert link.bytes_per_second is not None  # inside a node it is required
    return link.bytes_per_second


def _switch(drawing: Drawing, switch: Switch) -> Sides:
    """Its latency is told with the links: each message crosses two of them."""
    if switch.bytes_per_second is None:
        vertex = drawing.vertex(OPEN)
        return Sides(vertex, vertex)
    sides = drawing.sides(OPEN)
    drawing.edge(sides.enter, sides.leave, drawing.wire(switch.name, switch.bytes_per_second, 0.0))
    return sides


def _between(
    drawing: Drawing,
    link: Link,
    names: tuple[str, str],
    places: dict[str, Place],
    switches: dict[str, tuple[Sides, float]],
) -> None:
    ends, carried, seconds = [], [], link.latency_seconds
    for name in names:
        if name in switches:
            ends.append(switches[name][0])
            seconds += switches[name][1] / 2
            continue
        nic = _nic(places[name].node, link)
        ends.append(places[name].host if nic is None else _outlet(drawing, places[name], nic))
        carried += [] if nic is None else [nic.count * nic.bytes_per_second]
    a, b = names
    label = f" ({link.name or link.type})" if link.name or link.type else ""
    rate = link.bytes_per_second or min(carried)
    drawing.both_ways(ends[0], ends[1], (f"{a} → {b}{label}", f"{b} → {a}{label}"), link, rate, seconds)


def _nic(node: Node, link: Link) -> Nic | None:
    """The node's NICs that a link is plugged into: those it names, else the only ones."""
    named = [nic for nic in node.nics if nic.type == link.nic]
    return next(iter(named or node.nics), None)


def _outlet(drawing: Drawing, place: Place, nic: Nic) -> Sides:
    """Where the NICs of one type lead to. More of them than devices work as if each device's were one."""
    if nic.type in place.outlets:
        return place.outlets[nic.type]
    outlet = place.outlets[nic.type] = drawing.sides(place.zone)
    served = [d for d, t in zip(place.devices, place.types, strict=True) if t.kind != "cpu"] or list(place.devices)
    ports = min(nic.count, len(served))
    rate = nic.bytes_per_second * nic.count / ports
    for i in range(ports):
        label = f"{place.name} {nic.type}" + (f" {i}" if ports > 1 else "")
        out = drawing.wire(f"{label} out", rate, nic.latency_seconds)
        into = drawing.wire(f"{label} in", rate, nic.latency_seconds)
        mine = served[i * len(served) // ports : (i + 1) * len(served) // ports]
        for slot in (place.host, *(slot for device in mine for slot in place.slots[device])):
            drawing.edge(slot.leave, outlet.leave, out)
            drawing.edge(outlet.enter, slot.enter, into)
    return outlet


def _measured(cluster: Cluster, drawing: Drawing, drawn: Topology, places: dict[str, Place]) -> Topology:
    """Add what was measured: for a pair that links join a wire of its own, for one that none joins the only way."""
    if cluster.measured is None:
        return drawn
    labels = {f"{place.name}:{i}": d for place in places.values() for i, d in enumerate(place.devices)}
    own: dict[tuple[str, str] | tuple[int, int], int] = {}
    for i, a in enumerate(cluster.measured.names):
        for j, b in enumerate(cluster.measured.names):
            rate, seconds = cluster.measured.bytes_per_second[i][j], cluster.measured.latency_seconds[i][j]
            from_, to = (places[x].devices if x in places else range(labels[x], labels[x] + 1) for x in (a, b))
            pair = next(((x, y) for x in from_ for y in to if x != y), None)
            if not rate or pair is None:
                continue
            linked = drawn.joined(*pair)
            excess = max(0.0, seconds - drawn.latency_seconds(*pair)) if linked else seconds
            wire = drawing.wire(f"{a} → {b} (measured)", rate, excess)
            if not linked:
                drawing.edge(places[a].host.leave, places[b].host.enter, wire)
            elif a in places and b in places:
                own[a, b] = wire
            else:
                own.update({(x, y): wire for x in from_ for y in to if x != y})
    return Topology(drawn.devices, tuple(drawing.wires), tuple(drawing.edges), drawn.zones, drawn.hosts, own)
