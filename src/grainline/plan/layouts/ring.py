"""Ring: what messages among a group of ranks take, from the slowest way inside nodes and between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from grainline.documents.cluster import Source


@dataclass(frozen=True)
class Links:
    """Shares of links' data-sheet rates that messages reach, and what a collective or a message costs to start.

    Assumed. `inside`: nccl-tests' bus bandwidth of large all-reduces on 8 A100 is about 230 of 300 GB/s.
    `across`: of one NIC with RDMA. `start_seconds`: of launching and synchronising a collective of NCCL's.
    """

    inside: float = 0.77
    across: float = 0.85
    start_seconds: float = 15e-6


TOLD = Links()
"""Of data sheets."""
MEASURED = Links(1.0, 1.0, 0.0)
"""What was measured between pairs is what they get."""
CONTENTION = 0.2
"""Of a message's time that it takes from a product beside it: NCCL occupies up to 24 of an A100's 108 units there, one
for each channel. Assumed."""
SPREAD: dict[Source, float] = {
    "measured": 0.1,
    "calibrated": 0.1,
    "data sheet": 0.2,
    "extrapolated": 0.3,
    "assumed": 0.4,
}
"""Standard deviation of a message's time, relative, by where the link's rate comes from: assumed."""


@dataclass(frozen=True, slots=True, eq=False)
class Ring:
    """What a collective of one kind of group meets; of all such groups, the slowest."""

    size: int
    nodes: int  # that a group spans
    local: int  # members of it in one node
    inside_bytes_per_second: float
    inside_latency: float
    across_bytes_per_second: float  # of each member, all groups sending at once
    across_latency: float
    start_seconds: float = 0.0
    shared: bool = False  # messages inside a node and those that leave it cross one port

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
        """Seconds of an all-reduce of `count` bytes: a reduce-scatter and an all-gather, started once."""
        return 2 * self.gather(count) - self.start_seconds if self.size > 1 and count else 0.0

    def exchange(self, count: float) -> float:
        """Seconds of an all-to-all in which each member has `count` bytes for all, itself included."""
        if self.size == 1 or not count:
            return 0.0
        near = (self.local - 1) / self.size * count
        far = (self.size - self.local) / self.size * count
        inside = near / self.inside_bytes_per_second if near else 0.0
        across = far / self.across_bytes_per_second if far else 0.0
        seconds = inside + across if self.shared else max(inside, across)
        latency = self.across_latency * (self.nodes > 1) + self.inside_latency * (self.local > 1)
        return seconds + latency + self.start_seconds

    def hop(self, count: float) -> float:
        """Seconds of one message of `count` bytes, where the ring is a way between stages."""
        if self.size == 1:
            return 0.0
        return self.start_seconds + self.across_latency + count / self.across_bytes_per_second

    def _hops(self) -> float:
        """Latency of a ring, or of a tree where that is less."""
        inside = min(self.local - 1, 2 * math.ceil(math.log2(self.local))) if self.local > 1 else 0
        across = min(self.nodes - 1, 2 * math.ceil(math.log2(self.nodes))) if self.nodes > 1 else 0
        return inside * self.inside_latency + across * self.across_latency + self.start_seconds


ALONE = Ring(1, 1, 1, math.inf, 0.0, math.inf, 0.0)
"""A group of one: nothing is sent."""
