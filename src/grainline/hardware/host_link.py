"""How fast data go between a GPU and its host, from pinned memory; where there is a CUDA GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grainline.kernels.targets import Target

BYTES = 1 << 28
TRIES, SMALL_TRIES = 5, 200


@dataclass(frozen=True)
class HostLink:
    """Between one model of GPU and the host: bytes per second each way, alone, and seconds of the smallest copy."""

    device: str
    latency_seconds: float
    to_device_bytes_per_second: float
    from_device_bytes_per_second: float

    def table(self, node: str, command: str) -> dict[str, Any]:
        """As a link inside the node; the slower way counts."""
        return {
            "between": [node],
            "type": "host memory",
            "joins": [self.device],
            "latency_seconds": self.latency_seconds,
            "bytes_per_second": min(self.to_device_bytes_per_second, self.from_device_bytes_per_second),
            "source": "measured",
            "reference": f"{command}, copies of pinned memory",
        }


def host_links(gpus: Sequence[Target], names: Sequence[str]) -> list[HostLink]:
    """Of each target; `names` of all GPUs by index."""
    import torch

    found = []
    for gpu in gpus:
        host = torch.ones(BYTES, dtype=torch.uint8, pin_memory=True)
        device = torch.ones(BYTES, dtype=torch.uint8, device=gpu.name)

        def seconds(copy: Callable[[], object], gpu: Target = gpu) -> float:
            torch.cuda.synchronize(gpu.name)
            start = time.perf_counter()
            copy()
            torch.cuda.synchronize(gpu.name)
            return time.perf_counter() - start

        there = [seconds(lambda: device.copy_(host, non_blocking=True)) for _ in range(1 + TRIES)]  # noqa: B023
        back = [seconds(lambda: host.copy_(device, non_blocking=True)) for _ in range(1 + TRIES)]  # noqa: B023
        small = [seconds(lambda: device[:1].copy_(host[:1], non_blocking=True)) for _ in range(SMALL_TRIES)]  # noqa: B023
        name = names[int(gpu.name.partition(":")[2])]
        found.append(HostLink(name, statistics.median(small), BYTES / min(there[1:]), BYTES / min(back[1:])))
    return found
