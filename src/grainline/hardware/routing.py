"""Routes through wires: the widest way between two devices, and of the widest the shortest."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

FREE = -1  # the wire of an edge that costs nothing


class Edge(NamedTuple):
    """From one vertex to another over a wire, or FREE. Two edges may share a wire."""

    start: int
    end: int
    wire: int = FREE


@dataclass(frozen=True)
class Routing:
    """Vertices 0 … devices - 1 are devices, which pass nothing on; the others do."""

    devices: int
    edges: tuple[Edge, ...]
    bytes_per_second: tuple[float, ...]  # by wire
    latency_seconds: tuple[float, ...]

    def width(self, source: int, target: int) -> float:
        """Bytes per second of the widest way: the narrowest wire on it. 0 where there is none."""
        if source not in self._widths:
            self._widths[source] = self._widest(source)
        return self._widths[source][target]

    def route(self, source: int, target: int) -> tuple[int, ...]:
        """Wires of the widest way that is shortest: of least latency, then fewest edges. () where there is no way."""
        width = self.width(source, target)
        if not width:
            return ()
        if (source, width) not in self._trees:
            self._trees[source, width] = self._shortest(source, width)
        tree, wires, vertex = self._trees[source, width], [], target
        while vertex != source:
            edge = tree[vertex]
            assert edge is not None
            wires.append(edge.wire)
            vertex = edge.start
        return tuple(wire for wire in reversed(wires) if wire != FREE)

    @cached_property
    def _widths(self) -> dict[int, list[float]]:
        return {}  # filled by source

    @cached_property
    def _trees(self) -> dict[tuple[int, float], list[Edge | None]]:
        return {}  # filled by source and width

    @cached_property
    def _from(self) -> list[list[Edge]]:
        vertices = 1 + max((max(edge.start, edge.end) for edge in self.edges), default=0)
        found: list[list[Edge]] = [[] for _ in range(max(vertices, self.devices))]
        for edge in self.edges:
            found[edge.start].append(edge)
        return found

    def _out(self, vertex: int, source: int) -> list[Edge]:
        return self._from[vertex] if vertex == source or vertex >= self.devices else []

    def _widest(self, source: int) -> list[float]:
        """Dijkstra's algorithm for the maximum of minima."""
        widths = [0.0] * len(self._from)
        widths[source] = float("inf")
        waiting = [(-widths[source], source)]
        while waiting:
            width, vertex = heapq.heappop(waiting)
            if -width < widths[vertex]:
                continue
            for edge in self._out(vertex, source):
                wide = -width if edge.wire == FREE else min(-width, self.bytes_per_second[edge.wire])
                if wide > widths[edge.end]:
                    widths[edge.end] = wide
                    heapq.heappush(waiting, (-wide, edge.end))
        return widths

    def _shortest(self, source: int, width: float) -> list[Edge | None]:
        """By vertex, the last edge of the shortest way over wires of at least `width`; of equals the first found."""
        last: list[Edge | None] = [None] * len(self._from)
        cost = [(float("inf"), 0)] * len(self._from)
        cost[source] = (0.0, 0)
        waiting = [(cost[source], source)]
        while waiting:
            so_far, vertex = heapq.heappop(waiting)
            if so_far > cost[vertex]:
                continue
            for edge in self._out(vertex, source):
                if edge.wire != FREE and self.bytes_per_second[edge.wire] < width:
                    continue
                latency = 0.0 if edge.wire == FREE else self.latency_seconds[edge.wire]
                through = (so_far[0] + latency, so_far[1] + 1)
                if through < cost[edge.end]:
                    cost[edge.end] = through
                    last[edge.end] = edge
                    heapq.heappush(waiting, (through, edge.end))
        return last
