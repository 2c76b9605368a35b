"""Look at this machine: what it has, what it leaves to this process, and how fast its matmuls are."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path

from grainline.hardware import processor
from grainline.hardware.device import torch_build
from grainline.hardware.figures import Figures, figures
from grainline.hardware.machine import Accelerator, Machine


def look(measure: bool = True, disk: str | Path = ".", fresh: bool = False) -> Machine:
    """The machine as this process may use it.

    `measure` adds matmul FLOP/s by dtype and the rate of large copies, about half a second per device the first time;
    then they are remembered (see `figures`), and `fresh` measures again. Without torch there are none. `disk` is where
    free space is asked for; it need not exist yet.
    """
    disk = Path(disk).absolute()
    total, available = processor.memory()
    usable = processor.usable_cores()
    machine = Machine(
        system=platform.system(),
        architecture=platform.machine(),
        cpu=processor.name(),
        cpu_features=processor.features(),
        physical_cores=processor.physical_cores(),
        logical_cores=processor.logical_cores(),
        usable_cores=usable,
        threads=processor.threads(usable),
        memory_bytes=total,
        memory_available_bytes=available,
        disk_path=str(disk),
        disk_free_bytes=shutil.disk_usage(next(p for p in (disk, *disk.parents) if os.path.exists(p))).free,
        torch=_torch_version(),
    )
    if machine.torch is None:
        return machine
    machine = replace(machine, accelerators=_accelerators(), torch_build=torch_build())
    return _with_figures(machine, str(machine.torch), fresh) if measure else machine


def _torch_version() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def _accelerators() -> tuple[Accelerator, ...]:
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return tuple(Accelerator(p.name, "cuda", p.total_memory, f"{p.major}.{p.minor}") for p in found)
    if torch.backends.mps.is_available():
        return (Accelerator(f"{processor.name()} GPU", "mps", torch.mps.recommended_max_memory()),)
    return ()


def _with_figures(machine: Machine, torch_version: str, fresh: bool) -> Machine:
    cpu = figures(machine.cpu, "cpu", machine.threads, torch_version, fresh)
    seen: dict[str, Figures] = {}  # accelerators of one name are measured once
    for i, gpu in enumerate(machine.accelerators):
        if gpu.name not in seen:
            device = f"cuda:{i}" if gpu.kind == "cuda" else gpu.kind
            seen[gpu.name] = figures(gpu.name, device, None, torch_version, fresh)
    return replace(
        machine,
        flops_per_second=cpu.flops_per_second,
        memory_bytes_per_second=cpu.memory_bytes_per_second,
        disturbed=cpu.disturbed,
        accelerators=tuple(
            replace(
                gpu,
                flops_per_second=seen[gpu.name].flops_per_second,
                memory_bytes_per_second=seen[gpu.name].memory_bytes_per_second,
            )
            for gpu in machine.accelerators
        ),
    )
