"""Measured figures of a device, kept: for this process, and on disk for the next ones."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from grainline.documents import write_atomically
from grainline.hardware import rates

DTYPES = ("float32", "bfloat16")
BUSY = 0.5  # load per core beyond which a figure counts for this process only


@dataclass(frozen=True)
class Figures:
    """Of one device: matmul FLOP/s by dtype, and bytes per second of large copies (reads and writes both counted)."""

    flops_per_second: Mapping[str, float]
    memory_bytes_per_second: float


def figures(name: str, device: str, threads: int | None, torch_version: str, fresh: bool = False) -> Figures:
    """Figures of the device called `name`, which torch knows as `device`; `threads` for a CPU.

    About half a second where they aren't known for this name, thread count and torch yet; `fresh` measures again.
    """
    if fresh:
        _kept.cache_clear()
        with suppress(OSError):
            _file(name, device, threads, torch_version).unlink(missing_ok=True)
    return _kept(name, device, threads, torch_version)


def cache_folder() -> Path:
    """Where grainline keeps what it can always find out again: $XDG_CACHE_HOME/grainline or ~/.cache/grainline."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grainline"


@functools.cache
def _kept(name: str, device: str, threads: int | None, torch_version: str) -> Figures:
    file = _file(name, device, threads, torch_version)
    with suppress(OSError, ValueError, TypeError, KeyError):  # absent, unreadable or of another time: measure
        return Figures(**json.loads(file.read_text())["figures"])
    busy = os.getloadavg()[0] > BUSY * (os.cpu_count() or 1)
    measured = Figures(
        {t: r for t in DTYPES if (r := rates.matmul_rate(t, device, threads)) is not None},
        rates.copy_rate(device, threads),
    )
    if not busy:
        with suppress(OSError):  # a home that can't be written only costs half a second each time
            write_atomically(file, json.dumps({"device": name, "figures": asdict(measured)}, indent=2) + "\n")
    return measured


def _file(name: str, device: str, threads: int | None, torch_version: str) -> Path:
    key = json.dumps([name, device.split(":")[0], threads, torch_version])
    return cache_folder() / f"rates-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
