"""`grainline hardware`: this machine in one table."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from grainline._progress import counts

if TYPE_CHECKING:
    from rich.table import Table

    from grainline.hardware import Machine

GIB = 1 << 30


def run(*, disk: Path = Path("."), no_measure: bool = False, json: bool = False) -> int:
    """Show this machine: cores, memory, disk, accelerators, and how fast their matmuls are.

    Rates are measured the first time, in about a second, and remembered; `grainline hardware measure` measures again.

    Args:
        disk: the folder whose file system's free space is shown
        no_measure: only what the system says, without timing anything
        json: print one JSON object
    """
    from rich.console import Console

    from grainline.hardware import look

    machine = look(measure=not no_measure, disk=disk)
    if json:
        print(json_module.dumps(machine.as_dict(), indent=2))
    else:
        Console().print(table(machine))
    return 0


def table(machine: Machine) -> Table:
    """The machine in rows of two columns."""
    from rich.table import Table

    found = Table(show_header=False, box=None, pad_edge=False)
    found.add_column(style="bold")
    found.add_column(overflow="fold")
    found.add_row("system", f"{machine.system} {machine.architecture}")
    found.add_row("CPU", f"{machine.cpu} ({', '.join(machine.cpu_features) or 'no vector extensions known'})")
    found.add_row(
        "cores",
        f"{machine.usable_cores} usable of {machine.physical_cores} "
        f"({machine.logical_cores} hardware threads); computing with {counts(machine.threads, 'thread')}",
    )
    found.add_row(
        "memory", f"{machine.memory_available_bytes / GIB:.1f} GiB available of {machine.memory_bytes / GIB:.1f} GiB"
    )
    found.add_row("disk", f"{machine.disk_free_bytes / GIB:.1f} GiB free at {machine.disk_path}")
    found.add_row("torch", machine.torch or "not installed")
    if machine.flops_per_second:
        found.add_row("CPU rates", _rates(machine.flops_per_second, machine.memory_bytes_per_second))
        if machine.disturbed:
            found.add_row("", "Other programs ran on these cores while they were measured: alone, they are faster.")
    for i, gpu in enumerate(machine.accelerators):
        capability = f", capability {gpu.capability}" if gpu.capability else ""
        found.add_row(f"{gpu.kind} {i}", f"{gpu.name}, {gpu.memory_bytes / GIB:.1f} GiB{capability}")
        if gpu.flops_per_second:
            found.add_row("", _rates(gpu.flops_per_second, gpu.memory_bytes_per_second))
    return found


def _rates(flops_per_second: Mapping[str, float], bytes_per_second: float | None) -> str:
    words = [f"{dtype} {rate / 1e12:.3g} TFLOP/s" for dtype, rate in flops_per_second.items()]
    return ", ".join(words + ([] if bytes_per_second is None else [f"copies {bytes_per_second / 1e9:.3g} GB/s"]))
