"""Where work can run on this machine: processing units and the memory next to them. No torch until accelerators."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grainline.documents import GrainlineError

ANYWHERE = -1
"""As a core: whichever the system gives, where threads can't be bound to one (macOS)."""


@dataclass(frozen=True)
class Target:
    """A set of cores with their memory, or an accelerator with its own.

    A CPU is one target, "cpu"; where it has several NUMA domains each is one more: "cpu:0", "cpu:1".
    """

    name: str  # accelerators': as torch knows them, "cuda:0"
    kind: Literal["cpu", "cuda", "mps"]
    cores: tuple[int, ...] = ()  # logical CPUs, one of each core, domain by domain
    domains: tuple[int, ...] = ()  # the NUMA domain of each of them

    @property
    def domain_count(self) -> int:
        """NUMA domains that the cores belong to; 0 for an accelerator."""
        return len(set(self.domains))


def targets(threads: int | None = None, root: Path = Path("/")) -> tuple[Target, ...]:
    """What there is: the CPU, its NUMA domains if it has several, and torch's accelerators.

    At most `threads` cores of the CPU (default: all that affinity leaves), the same number of each domain as far as
    that goes. `root` is that of the file system.
    """
    return (*cpu_targets(threads, root), *_accelerators())


def cpu_targets(threads: int | None = None, root: Path = Path("/")) -> tuple[Target, ...]:
    """See `targets`."""
    domain_of = _domains(root)
    cores: dict[int, list[int]] = {}
    for core in _cores(root):
        cores.setdefault(domain_of.get(core, 0), []).append(core)
    kept: dict[int, list[int]] = {domain: [] for domain in sorted(cores)}
    for _ in range(sum(map(len, cores.values())) if threads is None else threads):
        left = [domain for domain in kept if len(kept[domain]) < len(cores[domain])]
        if left:
            domain = min(left, key=lambda d: len(kept[d]))
            kept[domain].append(cores[domain][len(kept[domain])])
    kept = {domain: of for domain, of in kept.items() if of}
    whole = _cpu("cpu", kept)
    return (whole, *(_cpu(f"cpu:{d}", {d: of}) for d, of in kept.items())) if len(kept) > 1 else (whole,)


def find_target(name: str, among: Iterable[Target] | None = None) -> Target:
    """The target of that name. Raises GrainlineError that lists those that are there."""
    there = tuple(targets() if among is None else among)
    for target in there:
        if target.name == name:
            return target
    raise GrainlineError(f"target '{name}': there is none here. There is {', '.join(target.name for target in there)}.")


def _cpu(name: str, cores: dict[int, list[int]]) -> Target:
    pairs = [(core, domain) for domain, of in cores.items() for core in of]
    return Target(name, "cpu", tuple(core for core, _ in pairs), tuple(domain for _, domain in pairs))


def _cores(root: Path) -> list[int]:
    """The first logical CPU of each core that this process may run on."""
    if not hasattr(os, "sched_getaffinity"):
        return [ANYWHERE] * (os.cpu_count() or 1)
    found, seen = [], set()
    for cpu in sorted(os.sched_getaffinity(0)):
        try:
            core = (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        except OSError:
            core = str(cpu)
        if core not in seen:
            seen.add(core)
            found.append(cpu)
    return found


def _domains(root: Path) -> dict[int, int]:
    """Logical CPU → NUMA domain; empty where the system doesn't tell."""
    found = {}
    for folder in (root / "sys/devices/system/node").glob("node[0-9]*"):
        for cpu in cpu_list((folder / "cpulist").read_text()):
            found[cpu] = int(folder.name.removeprefix("node"))
    return found


def cpu_list(text: str) -> list[int]:
    """The kernel's way to write a set of CPUs: "0-3,8" → [0, 1, 2, 3, 8]."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return [cpu for low, _, high in ranges for cpu in range(int(low), int(high or low) + 1)]


def _accelerators() -> tuple[Target, ...]:
    import torch

    if torch.cuda.is_available():
        return tuple(Target(f"cuda:{i}", "cuda") for i in range(torch.cuda.device_count()))
    return (Target("mps", "mps"),) if torch.backends.mps.is_available() else ()
