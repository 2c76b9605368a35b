"""Sums of gradients that follow a step's passes: of parameters that several ranks hold, and over replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from grainline.documents import ModelConfig
from grainline.hardware.topology import Topology
from grainline.plan import memory
from grainline.plan.seats import computing
from grainline.schedule import Schedule
from grainline.schedule.cells import Cell

Ranks = tuple[int, ...]
RingSeconds = Callable[[Ranks, float], float]
"""Of a sum of so many bytes over these ranks."""


def shared_gradients(
    config: ModelConfig, schedule: Schedule, stages: Sequence[Sequence[Cell]], *, tables: bool = True
) -> Iterator[tuple[Ranks, float]]:
    """Ranks and gradient bytes of all that several ranks hold: tied tables, MTP's embedding, norms, stages held twice.

    Without `tables` the vocabulary's are split among the ranks, and nobody's copy.
    """
    held = [
        memory.parameters_of_all(
            config, [cell for stage in schedule.stages_of(rank) for cell in stages[stage]], tables=tables
        )
        for rank in range(schedule.ranks)
    ]
    for name, count in {name: count for of in held for name, count in of.items()}.items():
        ranks = tuple(rank for rank, of in enumerate(held) if name in of)
        if len(ranks) > 1:
            yield ranks, float(memory.PARAMETER * count)


def ring_seconds(ranks: int, moved_bytes: float, latency_seconds: float, bytes_per_second: float) -> float:
    """Of a sum around a ring: each rank sends 2·(n − 1) pieces of an n-th each (Patarasuk & Yuan 2009)."""
    return 2 * (ranks - 1) * (latency_seconds + moved_bytes / ranks / bytes_per_second)


def shared_seconds(gradients: Iterator[tuple[Ranks, float]], ring: RingSeconds) -> float:
    """Of all of them, one after another, as the runtime sums them."""
    return sum(ring(ranks, count) for ranks, count in gradients)


def over_wires(wires: Topology, devices: Sequence[int]) -> RingSeconds:
    """At the pace of the slowest hop, in the order of ranks; `devices[rank]` are indices of the topology's."""

    def seconds(ranks: Ranks, count: float) -> float:
        ring = [devices[rank] for rank in ranks]
        hops = list(zip(ring, ring[1:] + ring[:1], strict=True))
        rate = min(wires.bytes_per_second(a, b) for a, b in hops)
        return ring_seconds(len(ring), count, max(wires.latency_seconds(a, b) for a, b in hops), rate)

    return seconds


def replica_seconds(
    config: ModelConfig,
    schedule: Schedule,
    stages: Sequence[Sequence[Cell]],
    wires: Topology,
    replicas: int,
    *,
    tables: bool = True,
) -> float:
    """Of summing a rank's gradients over the replicas of its pipeline; of the rank that takes longest."""
    devices = computing(wires)
    if replicas == 1 or len(devices) < replicas * schedule.ranks:
        return 0.0
    longest = 0.0
    for rank in range(schedule.ranks):
        cells = [cell for stage in schedule.stages_of(rank) for cell in stages[stage]]
        count = memory.PARAMETER * sum(memory.parameters_of_all(config, cells, tables=tables).values())
        ring = over_wires(wires, [devices[rank * replicas + i].index for i in range(replicas)])
        longest = max(longest, ring(tuple(range(replicas)), count))
    return longest
