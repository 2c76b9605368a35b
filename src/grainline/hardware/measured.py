"""What was measured of a machine, and that as a Cluster document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from grainline.documents import Cluster
from grainline.hardware.caches import Cache
from grainline.hardware.disk import DiskRates
from grainline.hardware.host_link import HostLink
from grainline.hardware.machine import Machine
from grainline.hardware.memory_rates import SetRate, StreamRates, of_memory
from grainline.hardware.network_probe import GLOO, Route

COMMAND = "grainline hardware measure"


@dataclass(frozen=True)
class Measured:
    """A part that wasn't measured is empty. `remarks` say what must be known to read the figures."""

    machine: Machine
    caches: tuple[Cache, ...] = ()
    stream: tuple[StreamRates, ...] = ()
    working_sets: tuple[SetRate, ...] = ()
    matmul: Mapping[str, Mapping[str, Mapping[int, float]]] = field(default_factory=dict)  # target → dtype → n → FLOP/s
    processes: tuple[Route, ...] = ()
    host_links: tuple[HostLink, ...] = ()
    disk: DiskRates | None = None
    disturbed: tuple[str, ...] = ()  # figures that other programs made smaller
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0

    def as_dict(self, name: str = "here") -> dict[str, Any]:
        """Plain values, for JSON, and the Cluster among them."""
        return {**asdict(self), "cluster": self.to_cluster(name).tables()}

    def memory_bytes_per_second(self, target: str) -> float | None:
        """Of a target's own memory; None where it wasn't measured, or only a cache was."""
        found = self._of_memory(target)
        return None if found is None else found.bytes_per_second["triad"]

    def _of_memory(self, target: str) -> StreamRates | None:
        return of_memory([rates for rates in self.stream if rates.target == target])

    def cache_rates(self, threads: int | None = None) -> dict[int, float]:
        """Level → bytes per second of reading by so many threads (default: all of those that were measured).

        That of the largest working set that fills at most half of the caches of that level, and what is before them.
        """
        threads = max((s.threads for s in self.working_sets), default=0) if threads is None else threads
        found: dict[int, float] = {}
        before = 0
        for cache in self.caches:
            room = min(threads * cache.size_bytes, cache.total_bytes)
            inside = [s for s in self.working_sets if s.threads == threads and before < s.set_bytes <= room / 2]
            if inside:
                found[cache.level] = inside[-1].read
            before = room
        return found

    def to_cluster(self, name: str = "here") -> Cluster:
        """One node with what was measured of it. A figure that wasn't measured is left out."""
        tables = self.machine.to_cluster(name).tables()
        command = COMMAND + (", beside other programs" if self.disturbed else "")
        devices = {device["name"]: device for device in tables["device_types"]}
        for target, device in self.devices().items():
            table = devices[device]
            for dtype, by_size in self.matmul.get(target, {}).items():
                table.setdefault("flops_per_second", {})[dtype] = max(by_size.values())
            stream = self._of_memory(target)
            for tier in table["memory"]:
                tier.pop("bytes_per_second", None)  # of copies that may fit into a cache
                if stream is not None:
                    tier["bytes_per_second"] = stream.bytes_per_second["triad"]
                    reference = f"{command}, STREAM triad: {stream.how}"
                    table["origins"] = {"memory": {"source": "measured", "reference": reference}}
        if self.disk is not None:
            tables["nodes"][0]["disks"] = [self.disk.table(command)]
        tables["links"] = [
            *self._process_links(name, command),
            *(link.table(name, command) for link in self.host_links),
        ]
        return Cluster.parse(tables, where="this machine")

    def devices(self) -> dict[str, str]:
        """Target → the device type that it is; of accelerators that are alike, the first."""
        found = {"cpu": self.machine.cpu}
        for i, gpu in enumerate(self.machine.accelerators):
            if gpu.name not in found.values():
                found[f"cuda:{i}" if gpu.kind == "cuda" else gpu.kind] = gpu.name
        return found

    def _process_links(self, name: str, command: str) -> list[dict[str, Any]]:
        """Between processes on the CPU: by gloo, which training uses, if that was measured, else by sockets."""
        best = next((route for route in self.processes if route.name == GLOO), None) or next(iter(self.processes), None)
        return [] if best is None else [best.table(name, self.machine.cpu, f"{command}, two processes")]
