"""What one machine is: plain facts, and this machine written as a Cluster document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from grainline.documents import Cluster

WORTHWHILE_GAIN = 1.2
"""How many times faster bfloat16 matmuls must be than float32 ones before they pay for the casts around them."""


@dataclass(frozen=True)
class Accelerator:
    """A GPU. Rates are of dense square matmuls, measured; empty where nothing was measured."""

    name: str
    kind: str  # torch's device type: "cuda" or "mps"
    memory_bytes: int
    capability: str = ""  # e.g. "9.0"
    flops_per_second: Mapping[str, float] = field(default_factory=dict)
    memory_bytes_per_second: float | None = None


@dataclass(frozen=True)
class Machine:
    """The machine as this process may use it: cores by affinity and quota, memory by the tightest limit."""

    system: str  # "Linux" or "Darwin"
    architecture: str  # "x86_64", "aarch64" or "arm64"
    cpu: str
    cpu_features: tuple[str, ...]  # those that matter to matmuls, e.g. ("avx2", "amx-bf16")
    physical_cores: int  # of the machine
    logical_cores: int  # of the machine
    usable_cores: int  # physical cores that affinity and quota leave to this process
    threads: int  # how many to compute with
    memory_bytes: int  # 0 where the system doesn't tell
    memory_available_bytes: int
    disk_path: str
    disk_free_bytes: int
    torch: str | None  # version, None where torch isn't installed
    accelerators: tuple[Accelerator, ...] = ()
    flops_per_second: Mapping[str, float] = field(default_factory=dict)  # of the CPU with `threads`, by dtype
    memory_bytes_per_second: float | None = None
    torch_build: str = ""  # what torch was built for: "CPU", "CUDA 12.8" or "Metal"
    disturbed: bool = False  # other programs ran while the CPU's figures were measured: alone, it is faster

    @property
    def platform_is_promised(self) -> bool:
        """Linux on x86-64 or aarch64, macOS on arm64."""
        return (self.system, self.architecture) in PROMISED

    @property
    def device_type(self) -> str:
        """torch's name of what computes here unless told otherwise: "cuda", "mps" or "cpu"."""
        return self.accelerators[0].kind if self.accelerators else "cpu"

    def matmul_rates(self, device_type: str) -> Mapping[str, float]:
        """FLOP/s by dtype of the CPU or of one accelerator; empty if there is none, or nothing was measured."""
        if device_type == "cpu":
            return self.flops_per_second
        return self.accelerators[0].flops_per_second if self.accelerators else {}

    def bfloat16_gain(self, device_type: str | None = None) -> float | None:
        """How many times faster matmuls are in bfloat16 than in float32; None if not measured."""
        rates = self.matmul_rates(device_type or self.device_type)
        return rates["bfloat16"] / rates["float32"] if {"bfloat16", "float32"} <= set(rates) else None

    def bfloat16_pays(self, device_type: str | None = None) -> bool:
        """Whether to compute in bfloat16 where the choice is free."""
        return (self.bfloat16_gain(device_type) or 0.0) >= WORTHWHILE_GAIN

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def to_cluster(self, name: str = "here") -> Cluster:
        """This machine as a cluster of one node; figures are measured where there are any, else assumed unknown."""
        cpu = {
            "name": self.cpu,
            "kind": "cpu",
            "flops_per_second": dict(self.flops_per_second),
            "memory": [_tier("RAM", self.memory_bytes, self.memory_bytes_per_second)],
            "source": "measured" if self.flops_per_second else "assumed",
            "reference": f"grainline hardware measure, {self.threads} threads, torch {self.torch}",
        }
        kinds = {a.name: a for a in self.accelerators}
        gpus = [
            {
                "name": gpu.name,
                "kind": "gpu",
                "flops_per_second": dict(gpu.flops_per_second),
                "memory": [_tier("device memory", gpu.memory_bytes, gpu.memory_bytes_per_second)],
                "source": "measured" if gpu.flops_per_second else "assumed",
                "reference": f"grainline hardware measure, torch {self.torch}",
            }
            for gpu in kinds.values()
        ]
        node = {
            "name": name,
            "devices": {self.cpu: 1, **Counter(a.name for a in self.accelerators)},
            "cores": self.usable_cores,
            "host_memory_bytes": self.memory_bytes,
        }
        return Cluster.parse({"device_types": [cpu, *gpus], "nodes": [node]}, where="this machine")


PROMISED = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")}


def _tier(name: str, capacity_bytes: int, bytes_per_second: float | None) -> dict[str, Any]:
    rate = {} if bytes_per_second is None else {"bytes_per_second": bytes_per_second}
    return {"name": name, "capacity_bytes": capacity_bytes, **rate}
