"""How messages between ranks, and copies to a rank's host memory, cross links that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from grainline.schedule.simulator.graph import Link

if TYPE_CHECKING:
    from grainline.hardware.topology import Topology


class Route(NamedTuple):
    """From one end to the other: the latency, and the links crossed, by index into `Network.links`."""

    latency_seconds: float
    links: tuple[int, ...]


HERE = Route(0.0, ())


@dataclass(frozen=True)
class Network:
    """Links, and who crosses which. A rank's way to itself crosses nothing and takes no time.

    `host[r]` are the ways from rank r to its host's memory and back, for activations that wait there; without them
    `lower` refuses such copies.
    """

    links: tuple[Link, ...]
    between: Callable[[int, int], Route]
    host: tuple[tuple[Route, Route], ...] = ()

    def route(self, source: int, target: int) -> Route:
        """The way from rank `source` to rank `target`."""
        return HERE if source == target else self.between(source, target)

    @classmethod
    def ideal(cls, ranks: int) -> Network:
        """Messages and copies take no time."""
        return cls((), lambda source, target: HERE, ((HERE, HERE),) * ranks)

    @classmethod
    def uniform(cls, ranks: int, latency_seconds: float, bytes_per_second: float) -> Network:
        """Each rank has one port, as fast out as in at the same time; what lies between ports never fills up."""
        out = [Link(f"rank {rank} out", bytes_per_second) for rank in range(ranks)]
        into = [Link(f"rank {rank} in", bytes_per_second) for rank in range(ranks)]
        return cls((*out, *into), lambda source, target: Route(latency_seconds, (source, ranks + target)))

    @classmethod
    def of(cls, topology: Topology, devices: Sequence[int]) -> Network:
        """Rank r runs on device `devices[r]` of the topology. Latencies of the wires on a way add up.

        GrainlineError where two ranks that have something to say to each other have no way.
        """

        def over(wires: tuple[int, ...]) -> Route:
            return Route(sum(topology.wires[i].latency_seconds for i in wires), wires)

        links = tuple(Link(wire.name, wire.bytes_per_second) for wire in topology.wires)
        hosts = {device: topology.host_routes(device) for device in devices}
        return cls(
            links,
            cache(lambda source, target: over(topology.route(devices[source], devices[target]))),
            tuple((over(hosts[device][0]), over(hosts[device][1])) for device in devices),
        )

    def with_host(self, ranks: int, bytes_per_second: float, latency_seconds: float = 0.0) -> Network:
        """The same, and for each rank a link of its own to host memory, and one back."""
        first = len(self.links)
        links = [Link(f"rank {rank} {way} host", bytes_per_second) for rank in range(ranks) for way in ("to", "from")]
        host = [
            (Route(latency_seconds, (first + 2 * rank,)), Route(latency_seconds, (first + 2 * rank + 1,)))
            for rank in range(ranks)
        ]
        return replace(self, links=(*self.links, *links), host=tuple(host))
