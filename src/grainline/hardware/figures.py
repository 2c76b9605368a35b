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

from grainline.documents import GrainlineError, write_atomically
from grainline.hardware import rates

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Figures:
    """Of one device: matmul FLOP/s by dtype, and bytes per second of large copies (reads and writes both counted)."""

    flops_per_second: Mapping[str, float]
    memory_bytes_per_second: float
    disturbed: bool = False  # other programs ran on the same cores meanwhile


def figures(name: str, device: str, threads: int | None, torch_version: str, fresh: bool = False) -> Figures:
    """Figures of the device called `name`, which torch knows as `device`; `threads` for a CPU.

    About half a second where they aren't known for this name, thread count and torch yet; `fresh` measures again.
    Disturbed figures are kept for this process only.
    """
    key = json.dumps([name, device.split(":")[0], threads, torch_version])
    file = cache_folder() / f"rates-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if fresh:
        _measured.cache_clear()
    else:
        with suppress(OSError, ValueError, TypeError, KeyError):  # absent, unreadable or of another time: measure
            return Figures(**json.loads(file.read_text())["figures"])
    found = _measured(device, threads)
    if not found.disturbed:
        with suppress(OSError, GrainlineError):  # a home that can't be written only costs half a second each time
            write_atomically(file, json.dumps({"device": name, "figures": asdict(found)}, indent=2) + "\n")
    return found


def cache_folder() -> Path:
    """Where grainline keeps what it can always find out again: $XDG_CACHE_HOME/grainline or ~/.cache/grainline."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grainline"


@functools.cache
def _measured(device: str, threads: int | None) -> Figures:
    matmuls = {t: rate for t in DTYPES if (rate := rates.matmul_rate(t, device, threads)) is not None}
    copies = rates.copy_rate(device, threads)
    return Figures(
        {t: rate.per_second for t, rate in matmuls.items()},
        copies.per_second,
        disturbed=min(rate.share for rate in (*matmuls.values(), copies)) < rates.ALONE,
    )
