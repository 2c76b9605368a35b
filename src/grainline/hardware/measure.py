"""Measure this machine: memory and caches, matmuls, processes' ways to talk, the disk; and write it as a Cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from grainline.documents import GrainlineError
from grainline.hardware import rates
from grainline.hardware.caches import caches, last_level_bytes, memory_bytes_needed
from grainline.hardware.disk import disk_rates
from grainline.hardware.figures import DTYPES
from grainline.hardware.host_link import host_links
from grainline.hardware.look import look
from grainline.hardware.machine import Machine
from grainline.hardware.measured import Measured
from grainline.hardware.memory_rates import DOUBLE, CpuStream, accelerator_cache_bytes, accelerator_rates
from grainline.hardware.network_probe import GLOO, SOCKETS, ProbeError, gloo_route, socket_route
from grainline.kernels.targets import Target, targets

Part = Literal["memory", "matmul", "processes", "disk"]
PARTS: tuple[Part, ...] = get_args(Part)
SHARE_OF_MEMORY = 0.6  # of what is free, that STREAM's arrays may take
LARGE = 512  # n of matmuls from which on a low share of the CPU says that others had it


@dataclass(frozen=True)
class Effort:
    """How much to do; the `most_` seconds only end what other programs make slow."""

    repetitions: int
    most_stream_seconds: float
    most_set_seconds: float
    matmul_seconds: float  # of each size
    most_matmul_seconds: float  # of each dtype
    disk_bytes: int
    gloo: bool


WHOLE = Effort(5, 12.0, 10.0, 0.15, 4.0, 1 << 29, gloo=True)
QUICK = Effort(1, 4.0, 0.0, 0.05, 1.0, 1 << 26, gloo=False)


def measure(
    *,
    quick: bool = False,
    parts: Sequence[Part] = PARTS,
    elements: int | None = None,
    disk: Path = Path("."),
    tell: Callable[[str], None] = lambda line: None,
) -> Measured:
    """Measure this machine, in about a minute, or in seconds if `quick`.

    `elements` of STREAM's arrays: by default what is needed to be past the caches. Raises GrainlineError where torch is
    missing, and where `elements` are too many for the memory; whatever else can't be measured becomes a remark.
    """
    effort, start = QUICK if quick else WHOLE, time.perf_counter()
    tell("matmuls and copies")
    machine = look(fresh=True, disk=disk)
    if machine.torch is None:
        raise GrainlineError("measuring needs torch, which isn't installed. Install it: python -m pip install torch")
    there = [target for target in targets(machine.threads) if _is_first_of_its_kind(machine, target)]
    found = Measured(machine, caches(), disturbed=("matmuls and copies",) if machine.disturbed else ())
    if "memory" in parts:
        found = _with_memory(found, there, effort, elements, tell)
    if "matmul" in parts:
        found = _with_matmuls(found, there, effort, tell)
    if "processes" in parts:
        found = _with_processes(found, there, effort, tell)
    if "disk" in parts:
        tell(f"disk of {disk.absolute()}")
        try:
            found = replace(found, disk=disk_rates(disk.absolute(), effort.disk_bytes))
        except GrainlineError as error:
            found = replace(found, remarks=(*found.remarks, f"disk: {error}"))
    return replace(found, seconds=time.perf_counter() - start)


def _is_first_of_its_kind(machine: Machine, target: Target) -> bool:
    if target.kind == "cpu":
        return True
    i = int(target.name.partition(":")[2] or 0)
    names = [gpu.name for gpu in machine.accelerators]
    return names.index(names[i]) == i


def _with_memory(
    found: Measured, there: Sequence[Target], effort: Effort, elements: int | None, tell: Callable[[str], None]
) -> Measured:
    stream, sets = list(found.stream), list(found.working_sets)
    remarks, disturbed = list(found.remarks), list(found.disturbed)
    last_level = last_level_bytes(found.caches)
    if not last_level:
        remarks.append("caches: the system doesn't tell their sizes; arrays are as large as usual ones need.")
    for target in there:
        is_cpu = target.kind == "cpu"
        cache = last_level if is_cpu else accelerator_cache_bytes(target)
        free = found.machine.memory_available_bytes if is_cpu else _free_bytes(found.machine, target)
        count, remark = _elements(target, cache, free, elements)
        remarks += [remark] if remark else []
        tell(f"STREAM on {target.name}, 3 arrays of {count * DOUBLE / 1e6:,.0f} MB")
        if not is_cpu:
            stream += accelerator_rates(target, count, cache, effort.repetitions, effort.most_stream_seconds)
            continue
        with CpuStream(target, count, cache) as cpu:
            rates_here = cpu.rates(effort.repetitions, effort.most_stream_seconds)
            stream += rates_here
            if effort.most_set_seconds and target.name == "cpu":
                tell("caches, by working set")
                sets += cpu.by_working_set(max(2 * cache, 1 << 26), effort.most_set_seconds)
            if cpu.executor is None:
                remarks.append("STREAM: the compiled core isn't there, so NumPy computed it; see grainline doctor.")
        for each in rates_here:
            if each.share < rates.ALONE:
                disturbed.append(f"STREAM on {target.name} ({each.how})")
    return replace(
        found, stream=tuple(stream), working_sets=tuple(sets), remarks=tuple(remarks), disturbed=tuple(disturbed)
    )


def _elements(target: Target, cache: int, free: int, asked: int | None) -> tuple[int, str]:
    """Elements of each array, and a remark where they are too few to measure memory."""
    needed = -(-memory_bytes_needed(cache) // DOUBLE)
    most = int(free * SHARE_OF_MEMORY) // (3 * DOUBLE)
    if asked is not None and asked > most:
        raise GrainlineError(f"--elements {asked}: three such arrays don't fit; at most {most} do on {target.name}.")
    count = min(needed, most) if asked is None else asked
    if count >= needed:
        return count, ""
    return max(1, count), (
        f"{target.name}: arrays of {count * DOUBLE / 1e6:,.0f} MB lie in part in its last-level caches of "
        f"{cache / 1e6:,.0f} MB, so their rate is told but isn't taken for memory's: that needs "
        f"{needed * DOUBLE / 1e6:,.0f} MB each ({'--elements ' + str(needed) if asked else 'more free memory'})."
    )


def _free_bytes(machine: Machine, target: Target) -> int:
    import torch

    if target.kind == "cuda":
        return int(torch.cuda.mem_get_info(target.name)[0])
    return machine.accelerators[0].memory_bytes


def _with_matmuls(found: Measured, there: Sequence[Target], effort: Effort, tell: Callable[[str], None]) -> Measured:
    matmul: dict[str, dict[str, dict[int, float]]] = {}
    disturbed = list(found.disturbed)
    for target in there:
        if target.kind == "cpu" and target.name != "cpu":
            continue
        for dtype in DTYPES:
            tell(f"matmuls of {dtype} on {target.name}, by size")
            by_size = rates.matmul_by_size(
                dtype, target.name, found.machine.threads, effort.matmul_seconds, effort.most_matmul_seconds
            )
            if by_size:
                matmul.setdefault(target.name, {})[dtype] = {n: rate.per_second for n, rate in by_size.items()}
            if any(rate.share < rates.ALONE for n, rate in by_size.items() if n >= LARGE):
                disturbed.append(f"matmuls of {dtype} on {target.name}")
    return replace(found, matmul=matmul, disturbed=tuple(disturbed))


def _with_processes(found: Measured, there: Sequence[Target], effort: Effort, tell: Callable[[str], None]) -> Measured:
    routes, remarks = [], list(found.remarks)
    probes = {name: partial(socket_route, name) for name in SOCKETS} | ({GLOO: gloo_route} if effort.gloo else {})
    for name, probe in probes.items():
        tell(f"two processes by {name}")
        try:
            routes.append(probe())
        except ProbeError as error:
            remarks.append(f"processes: {error}.")
    links = host_links([t for t in there if t.kind == "cuda"], [a.name for a in found.machine.accelerators])
    return replace(found, processes=tuple(routes), host_links=tuple(links), remarks=tuple(remarks))
