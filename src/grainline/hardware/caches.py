"""The CPU's caches as the system tells them, and how large an array must be to be in memory and not in them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grainline.documents import GrainlineError
from grainline.hardware.processor import sysctl

TIMES = 4
"""Arrays must be as many times as large as the last-level caches together (STREAM's rule)."""
AT_LEAST = 1 << 27
"""Bytes, where the caches are small, or the system doesn't tell them all, as on Apple silicon."""
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Cache:
    """One level: the size of one such cache, how many there are for the cores in use, and how many CPUs share one."""

    level: int
    kind: str  # "data" or "unified"
    size_bytes: int
    count: int
    shared_by: int

    @property
    def total_bytes(self) -> int:
        """Of all of them together."""
        return self.size_bytes * self.count


def caches(root: Path = Path("/"), allowed: Iterable[int] | None = None) -> tuple[Cache, ...]:
    """Data and unified caches of the CPUs that this process may use, nearest first; () where they aren't told."""
    if platform.system() == "Darwin":
        return _apple()
    if allowed is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    seen: dict[tuple[int, str, int], dict[str, int]] = {}
    for cpu in sorted(allowed):
        for folder in sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index[0-9]*")):
            kind, size = _read(folder / "type").lower(), _size(_read(folder / "size"))
            if kind in ("data", "unified") and size:
                shared = _read(folder / "shared_cpu_list") or str(cpu)
                level = seen.setdefault((int(_read(folder / "level")), kind, size), {})
                level[shared] = level.get(shared, 0) + 1
    return tuple(
        Cache(level, kind, size, len(by), max(by.values())) for (level, kind, size), by in sorted(seen.items())
    )


def last_level_bytes(found: Iterable[Cache]) -> int:
    """Of the caches before memory, all together; 0 if none are known."""
    return max((cache.total_bytes for cache in found), default=0)


def memory_bytes_needed(last_level: int) -> int:
    """How large an array must be for its rate to be memory's."""
    return max(AT_LEAST, TIMES * last_level)


def check_is_memory(array_bytes: int, last_level: int) -> None:
    """Raises GrainlineError if an array is so small that its rate would be that of a cache."""
    needed = memory_bytes_needed(last_level)
    if array_bytes < needed:
        raise GrainlineError(
            f"arrays of {array_bytes / 1e6:,.0f} MB lie in part in last-level caches of {last_level / 1e6:,.0f} MB: "
            f"their rate is no memory bandwidth. At least {needed / 1e6:,.0f} MB each are needed."
        )


def _apple() -> tuple[Cache, ...]:
    """Of the fast cores. The system cache behind them isn't told."""
    cores = int(sysctl("hw.perflevel0.physicalcpu") or os.cpu_count() or 1)
    found = []
    for level, kind, keys in ((1, "data", "l1dcachesize"), (2, "unified", "l2cachesize")):
        size = int(sysctl(f"hw.perflevel0.{keys}") or sysctl(f"hw.{keys}") or 0)
        shared = 1 if level == 1 else int(sysctl("hw.perflevel0.cpusperl2") or cores)
        if size:
            found.append(Cache(level, kind, size, -(-cores // shared), shared))
    return tuple(found)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _size(text: str) -> int:
    """ "48K" → 49152; 0 for what isn't a size."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text)
    return int(match[1]) * UNITS.get(match[2], 1) if match else 0
