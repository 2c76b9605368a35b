"""Routes through wires: the widest way between two vertices, and of the widest the shortest."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

FREE = -1  # the wire of an edge that costs nothing
OPEN = -1  # the zone of what anybody's traffic passes through


class Edge(NamedTuple):
    """From one vertex to another over a wire, or FREE. Two edges may share a wire."""

    start: int
    end: int
    wire: int = FREE


class Way(NamedTuple):
    """Bytes per second of the narrowest wire (0: there is no way), and the wires in order."""

    width: float
    wires: tuple[int, ...]


@dataclass(frozen=True)
class Routing:
    """Vertices 0 … devices - 1 are devices, which pass nothing on.

    A vertex in a zone (a node's index) is only passed by what begins or ends in that zone; those that `zones` leaves
    out are OPEN. It changes no route where nodes don't forward, and keeps a search out of the nodes beside its way.
    """

    devices: int
    edges: tuple[Edge, ...]
    bytes_per_second: tuple[float, ...]  # by wire
    latency_seconds: tuple[float, ...]
    zones: tuple[int, ...] = ()  # by vertex

    def way(self, source: int, target: int) -> Way:
        """The widest way that is shortest: of least latency, then fewest edges."""
        if (source, target) not in self._ways:
            width = self._width(source, target)
            self._ways[source, target] = Way(width, self._shortest(source, target, width) if width else ())
        return self._ways[source, target]

    @cached_property
    def _ways(self) -> dict[tuple[int, int], Way]:
        return {}  # filled as asked

    @cached_property
    def _from(self) -> list[list[Edge]]:
        vertices = 1 + max((max(edge.start, edge.end) for edge in self.edges), default=0)
        found: list[list[Edge]] = [[] for _ in range(max(vertices, self.devices))]
        for edge in self.edges:
            found[edge.start].append(edge)
        return found

    def _zone(self, vertex: int) -> int:
        return self.zones[vertex] if vertex < len(self.zones) else OPEN

    def _out(self, vertex: int, source: int, zones: tuple[int, int, int]) -> Iterator[Edge]:
        if vertex == source or vertex >= self.devices:
            yield from (edge for edge in self._from[vertex] if self._zone(edge.end) in zones)

    def _width(self, source: int, target: int) -> float:
        """Dijkstra's algorithm for the maximum of minima."""
        zones = (OPEN, self._zone(source), self._zone(target))
        widths = {source: float("inf")}
        waiting = [(-widths[source], source)]
        while waiting:
            width, vertex = heapq.heappop(waiting)
            if vertex == target:
                return -width
            if -width < widths[vertex]:
                continue
            for edge in self._out(vertex, source, zones):
                wide = -width if edge.wire == FREE else min(-width, self.bytes_per_second[edge.wire])
                if wide > widths.get(edge.end, 0.0):
                    widths[edge.end] = wide
                    heapq.heappush(waiting, (-wide, edge.end))
        return 0.0

    def _shortest(self, source: int, target: int, width: float) -> tuple[int, ...]:
        """The shortest way over wires of at least `width`; of equals the first found."""
        zones = (OPEN, self._zone(source), self._zone(target))
        last: dict[int, Edge] = {}
        cost = {source: (0.0, 0)}
        waiting = [(cost[source], source)]
        while waiting:
            so_far, vertex = heapq.heappop(waiting)
            if vertex == target:
                break
            if so_far > cost[vertex]:
                continue
            for edge in self._out(vertex, source, zones):
                if edge.wire != FREE and self.bytes_per_second[edge.wire] < width:
                    continue
                latency = 0.0 if edge.wire == FREE else self.latency_seconds[edge.wire]
                through = (so_far[0] + latency, so_far[1] + 1)
                if edge.end not in cost or through < cost[edge.end]:
                    cost[edge.end] = through
                    last[edge.end] = edge
                    heapq.heappush(waiting, (through, edge.end))
        wires: list[int] = []
        while target != source:
            wires.append(last[target].wire)
            target = last[target].start
        return tuple(wire for wire in reversed(wires) if wire != FREE)
