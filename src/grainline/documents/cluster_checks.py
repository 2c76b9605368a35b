"""What must hold in a cluster beyond the type of each key. Every error names the key and the value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from grainline.documents.errors import nearest

if TYPE_CHECKING:
    from grainline.documents.cluster import Cluster, DeviceType, Link, Node, SharedMemory

DTYPES = ("float64", "float32", "tf32", "float16", "bfloat16", "float8", "int8", "float4", "int4")
"""What rates are told for; tf32 is float32 matmuls on tensor cores."""

MOST = 5  # names listed in one error


def check(cluster: Cluster) -> None:
    """Raise ValueError with the first thing that doesn't hold."""
    _once("device_types", (d.name for d in cluster.device_types))
    _once("nodes", (n.name for n in cluster.nodes))
    _once("nodes and switches", [*(name for name, _ in cluster.every_node()), *(s.name for s in cluster.switches)])
    for i, device in enumerate(cluster.device_types):
        _device(device, f"device_types[{i}]")
    for i, node in enumerate(cluster.nodes):
        for name in node.devices:
            if name not in (types := {d.name for d in cluster.device_types}):
                raise ValueError(f"nodes[{i}].devices: no device type is named '{name}'.{nearest(name, types)}")
        _once(f"nodes[{i}].nics", (nic.type for nic in node.nics))
    for i, link in enumerate(cluster.links):
        if len(link.between) == 1:
            _inner_link(cluster, link, f"links[{i}]")
        else:
            _outer_link(cluster, link, f"links[{i}]")
    _once("shared_memory", (one.name for one in cluster.shared_memory))
    for i, shared in enumerate(cluster.shared_memory):
        _shared_memory(cluster, shared, f"shared_memory[{i}]")
    _measured(cluster)
    _reachable(cluster)


def _once(key: str, names: Iterable[str]) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{key}: the name '{name}' is given to {count} of them")


def _device(device: DeviceType, key: str) -> None:
    for dtype in device.flops_per_second:
        if dtype not in DTYPES:
            raise ValueError(f"{key}.flops_per_second: there is no dtype '{dtype}'.{nearest(dtype, DTYPES)}")
    figures = {f"flops_per_second.{dtype}" for dtype in device.flops_per_second}
    figures |= {f"memory.{tier.name}.{key}" for tier in device.memory for key in ("capacity_bytes", "bytes_per_second")}
    figures |= {"flops_per_second", "memory", "price_per_hour", "power_watts"}
    for name in device.origins:
        if name not in figures:
            raise ValueError(f"{key}.origins: there is no figure '{name}'.{nearest(name, figures)}")


def _node_of(cluster: Cluster, name: str) -> Node | None:
    """The node that `name` means, all of its copies or one."""
    nodes = {node.name: node for node in cluster.nodes} | dict(cluster.every_node())
    return nodes.get(name)


def _named(cluster: Cluster, name: str, key: str, switches: Iterable[str] = ()) -> Node | None:
    node = _node_of(cluster, name)
    if node is None and name not in switches:
        known = [*(n.name for n in cluster.nodes), *switches]
        what = "no node or switch" if switches else "no node"
        raise ValueError(f"{key}: {what} is named '{name}'.{nearest(name, known)}")
    return node


def _inner_link(cluster: Cluster, link: Link, key: str) -> None:
    name = link.between[0]
    if name in {switch.name for switch in cluster.switches}:
        raise ValueError(f"{key}.between: ['{name}'] is a switch; name what it is joined with as well")
    node = _named(cluster, name, f"{key}.between")
    assert node is not None
    if link.bytes_per_second is None:
        raise ValueError(f"{key}.bytes_per_second: is required for a link inside a node")
    if link.nic:
        raise ValueError(f"{key}.nic: '{link.nic}' goes with a link between two nodes or switches")
    for device in link.joins:
        if device not in node.devices:
            raise ValueError(f"{key}.joins: node '{name}' has no device '{device}'.{nearest(device, node.devices)}")
    many = sum(n for device, n in node.devices.items() if not link.joins or device in link.joins)
    if link.groups_of is not None and many % link.groups_of:
        raise ValueError(f"{key}.groups_of: {link.groups_of} doesn't divide the {many} devices that the link joins")


def _outer_link(cluster: Cluster, link: Link, key: str) -> None:
    switches = [switch.name for switch in cluster.switches]
    nodes = [_named(cluster, name, f"{key}.between", switches) for name in link.between]
    ends = [(name, node) for name, node in zip(link.between, nodes, strict=True) if node is not None]
    if link.between[0] == link.between[1] and not (nodes[0] is not None and len(cluster.named(link.between[0])) > 1):
        raise ValueError(f"{key}.between: '{link.between[0]}' is joined with itself; name it once for a link inside it")
    for word, given in (("joins", link.joins), ("groups_of", link.groups_of), ("sharing", link.sharing != "port")):
        if given:
            raise ValueError(f"{key}.{word}: goes with a link inside one node")
    types = {nic.type for _, node in ends for nic in node.nics}
    if link.nic and link.nic not in types:
        raise ValueError(f"{key}.nic: neither end has NICs of type '{link.nic}'.{nearest(link.nic, types)}")
    for name, node in ends:
        there = [nic.type for nic in node.nics]
        if len(there) > 1 and link.nic not in there:
            raise ValueError(f"{key}.nic: say which of {there} of node '{name}' the link is plugged into")
    if link.bytes_per_second is None and not types:
        raise ValueError(f"{key}.bytes_per_second: is required where neither end has NICs")


def _shared_memory(cluster: Cluster, shared: SharedMemory, key: str) -> None:
    for name in shared.nodes:
        _named(cluster, name, f"{key}.nodes")
    if not {"read", "write"} <= set(shared.operations):
        raise ValueError(f"{key}.operations: a memory at least has read and write, not {list(shared.operations)} alone")
    for operation in shared.latency_seconds:
        if operation not in shared.operations:
            raise ValueError(f"{key}.latency_seconds.{operation}: isn't among its operations {list(shared.operations)}")


def _measured(cluster: Cluster) -> None:
    if cluster.measured is None:
        return
    names = cluster.measured.names
    _once("measured.names", names)
    nodes = dict(cluster.every_node())
    unknown = [name for name in names if name not in nodes and not _is_device(nodes, name)]
    if unknown:
        known = (node.name for node in cluster.nodes)
        raise ValueError(f"measured.names: no node or device is named '{unknown[0]}'.{nearest(unknown[0], known)}")
    if len({name in nodes for name in names}) > 1:
        raise ValueError(f"measured.names: must be nodes alone or devices alone, not both: {list(names)}")
    for key in ("latency_seconds", "bytes_per_second"):
        rows = getattr(cluster.measured, key)
        if len(rows) != len(names) or any(len(row) != len(names) for row in rows):
            raise ValueError(f"measured.{key}: must hold {len(names)} rows of {len(names)}, as there are names")


def _is_device(nodes: Mapping[str, Node], name: str) -> bool:
    """Whether a name is NODE:i of a device."""
    node, _, index = name.rpartition(":")
    return node in nodes and index.isdecimal() and int(index) < sum(nodes[node].devices.values())


def _reachable(cluster: Cluster) -> None:
    """Each node must reach each other over links and switches; other nodes on the way must forward."""
    nodes = dict(cluster.every_node())
    if len(nodes) == 1:
        return
    meets: dict[str, set[str]] = {name: set() for name in [*nodes, *(s.name for s in cluster.switches)]}
    for _, a, b in cluster.joints():
        meets[a].add(b)
        meets[b].add(a)
    for a, b in measured_nodes(cluster) & {(b, a) for a, b in measured_nodes(cluster)}:
        meets[a].add(b)
    island = _islands({name: around for name, around in meets.items() if name not in nodes or nodes[name].forwards})
    shores = {name: {island[n] for n in (name, *meets[name]) if n in island} for name in nodes}
    if set.intersection(*shores.values()):
        return
    for a in nodes:
        apart = [b for b in nodes if b != a and b not in meets[a] and not shores[a] & shores[b]]
        if apart:
            more = f" and {len(apart) - MOST} more" if len(apart) > MOST else ""
            which = ", ".join(f"'{name}'" for name in apart[:MOST]) + more
            raise ValueError(
                f"links: the devices of node '{a}' can't reach those of {which}. Add a link or a switch between them, "
                "or set forwards = true for nodes that pass on others' traffic"
            )


def _islands(meets: dict[str, set[str]]) -> dict[str, str]:
    """Name → the first name of the connected part that it is in."""
    island: dict[str, str] = {}
    for first in meets:
        reached = [] if first in island else [first]
        while reached:
            name = reached.pop()
            island[name] = first
            reached += [n for n in meets[name] if n in meets and n not in island]
    return island


def measured_nodes(cluster: Cluster) -> set[tuple[str, str]]:
    """Pairs of nodes, sender and receiver, between which something was measured."""
    if cluster.measured is None:
        return set()
    nodes = dict(cluster.every_node())
    names = cluster.measured.names
    return {
        (a, b)
        for a, row in zip(names, cluster.measured.bytes_per_second, strict=True)
        for b, rate in zip(names, row, strict=True)
        if rate and a != b and a in nodes and b in nodes
    }
