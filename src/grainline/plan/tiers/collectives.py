"""Collectives through a memory that all ranks share, against those on links: seconds in closed form.

A shared memory that adds up needs one write and one read where a ring needs 2(N − 1) hops (arXiv 2511.10753).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grainline.documents import Cluster, GrainlineError
from grainline.documents.cluster import SharedMemory

Collective = Literal["all-reduce", "reduce-scatter", "all-gather", "all-to-all", "point-to-point"]
REDUCING = frozenset({"all-reduce", "reduce-scatter"})


@dataclass(frozen=True)
class Pool:
    """A shared memory as so many ranks see it: what each gets when all move at once."""

    ranks: int
    memory: SharedMemory

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise GrainlineError(f"{self.memory.name}: {self.ranks} devices share it; there must be one at least.")

    @classmethod
    def of(cls, cluster: Cluster) -> Pool | None:
        """The cluster's first shared memory, with all devices that have a port; None where it has none."""
        if not cluster.shared_memory:
            return None
        memory = cluster.shared_memory[0]
        meant = {name for one in memory.nodes for name in cluster.named(one)}
        nodes = [node for name, node in cluster.every_node() if not memory.nodes or name in meant]
        return cls(sum(sum(node.devices.values()) for node in nodes), memory)

    def bytes_per_second(self, both_ways: bool = False) -> float:
        """Of one port in one direction while all ranks use theirs, in this direction or in both."""
        ways = 2 if both_ways else 1
        port = self.memory.bytes_per_second / (ways if self.memory.duplex == "half" else 1)
        banks = self.memory.banks_bytes_per_second
        return port if banks is None else min(port, banks / (self.ranks * ways))

    def latency_seconds(self, *operations: str) -> float:
        """Of these operations one after another."""
        return sum(seconds for name, seconds in self.memory.latency_seconds.items() if name in operations)

    def seconds(self, collective: Collective, size_bytes: float, chunks: int = 64) -> float:
        """Of a collective over `size_bytes` of every rank, in so many chunks whose writes and reads overlap.

        Without `accumulate` every rank reads what all have written, and adds up by itself. GrainlineError without
        `notify`: nobody would know when the writes are done.
        """
        if "notify" not in self.memory.operations:
            raise GrainlineError(
                f"shared_memory '{self.memory.name}': collectives need a word that writes are done; add notify to its "
                "operations, or plan with links."
            )
        if self.ranks == 1:
            return 0.0
        adds = "accumulate" in self.memory.operations
        wrote = "accumulate" if collective in REDUCING and adds else "write"
        start = self.latency_seconds(wrote, "notify", "read")
        n, s, rate = self.ranks, size_bytes, self.bytes_per_second(both_ways=True)
        written = s / n if collective == "all-gather" else s
        read = {"all-reduce": s if adds else n * s, "reduce-scatter": s / n if adds else s}.get(collective, s)
        return start + max(written, read) / rate + min(written, read) / rate / chunks


def ring_seconds(
    collective: Collective, ranks: int, size_bytes: float, latency_seconds: float, bytes_per_second: float
) -> float:
    """Of a ring over links: 2(N − 1) hops of S/N for an all-reduce, half of that for its halves."""
    if ranks == 1:
        return 0.0
    if collective == "point-to-point":
        return latency_seconds + size_bytes / bytes_per_second
    hops = (ranks - 1) * (2 if collective == "all-reduce" else 1)
    return hops * (latency_seconds + size_bytes / ranks / bytes_per_second)
