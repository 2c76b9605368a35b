"""Stock: fewer devices than a cluster has. What there is of each type, and the smaller fleets that cost less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from grainline.documents import GrainlineError, nearest
from grainline.plan.layouts.fleet import Fleet


def limited(fleet: Fleet, most: Mapping[str, int]) -> Fleet:
    """No more than so many devices of each type, node by node. Raises GrainlineError for a type that isn't there."""
    names = list(dict.fromkeys(device.name for device in fleet.types))
    for name, count in most.items():
        if name not in names:
            raise GrainlineError(f"--stock {name}: the cluster has no such devices.{nearest(name, names)}")
        if count < 0:
            raise GrainlineError(f"--stock {name}={count}: must be 0 or more.")
    taken: Counter[str] = Counter()
    order = []
    for device, kind in zip(fleet.order, fleet.types, strict=True):
        taken[kind.name] += 1
        if taken[kind.name] <= most.get(kind.name, len(fleet)):
            order.append(device)
    if not order:
        raise GrainlineError("--stock: no device is left to plan for.")
    return fleet.reordered(order)


def smaller(fleet: Fleet) -> Iterator[Fleet]:
    """The whole fleet, then each kind of node alone, each halved again and again by nodes: for objectives that count
    devices.
    """
    kinds: dict[str, list[int]] = {}
    for device, kind in zip(fleet.order, fleet.types, strict=True):
        kinds.setdefault(kind.name, []).append(device)
    groups = [list(fleet.order), *(kinds.values() if len(kinds) > 1 else ())]
    seen: set[tuple[int, ...]] = set()
    for group in groups:
        nodes = list(dict.fromkeys(fleet.ways.node_of[device] for device in group))
        count = len(nodes)
        while count:
            kept = set(nodes[:count])
            order = tuple(device for device in group if fleet.ways.node_of[device] in kept)
            if order not in seen:
                seen.add(order)
                yield fleet if order == fleet.order else fleet.reordered(order)
            count //= 2
