"""Tile sizes: those that were measured on this device, kept by its name, or a guess that runs everywhere."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from grainline.documents import GrainlineError, make_folder, write_atomically

INTERPRETER = "interpreter"
SHIPPED = Path(__file__).parent / "tuned"

TWO_PRODUCTS = frozenset({"up"})
"""Kernels that multiply rows by two matrices at once, gate and up."""
OVER_ROWS = frozenset({"d_w2", "d_w13"})
"""Kernels whose inner dimension is an expert's rows; the others' tiles are made of them."""
KERNELS = ("up", "down", "d_hidden", "d_w2", "d_w13", "d_rows")
"""What is tuned apart from each other: two products forward, four backward."""


@dataclass(frozen=True)
class Tile:
    """What one program computes: rows × columns of the output, `depth` of the inner dimension at a time."""

    rows: int
    columns: int
    depth: int
    group: int = 8  # row tiles that share a column of weights before the next column comes
    warps: int = 8
    stages: int = 3  # of loads under way


@dataclass(frozen=True)
class ShapeClass:
    """Shapes that share their tiles: D, F, and rows per expert to the next power of two."""

    dtype: str
    width: int
    hidden: int
    rows: int

    @classmethod
    def of(cls, dtype: torch.dtype, width: int, hidden: int, rows: int, experts: int) -> ShapeClass:
        """The class of N `rows` over so many experts."""
        return cls(str(dtype).removeprefix("torch."), width, hidden, _next_power_of_2(-(-rows // max(1, experts))))

    def __str__(self) -> str:
        return f"{self.dtype} D={self.width} F={self.hidden} rows={self.rows}"


CANDIDATES: dict[str, tuple[Tile, ...]] = {
    "up": (
        Tile(128, 128, 64, stages=4),  # an A100 has no memory for this one, and too few registers for its like
        Tile(128, 64, 64),
        Tile(128, 128, 64),
        Tile(128, 128, 32, stages=4),
        Tile(128, 64, 64, stages=4),
        Tile(64, 128, 64),
        Tile(64, 64, 64, warps=4),
    ),
    "down": (
        Tile(128, 128, 64),
        Tile(128, 256, 64),
        Tile(128, 256, 64, stages=4),
        Tile(128, 128, 64, stages=4),
        Tile(128, 128, 64, warps=4),
        Tile(128, 128, 32, stages=4),
        Tile(64, 256, 64),
        Tile(64, 128, 64, warps=4),
    ),
    "d_hidden": (
        Tile(128, 64, 64),
        Tile(128, 64, 64, stages=4),
        Tile(128, 64, 32, stages=4),
        Tile(64, 128, 64),
        Tile(64, 64, 64, warps=4),
    ),
    "d_w2": (
        Tile(128, 128, 64),
        Tile(128, 256, 64),
        Tile(256, 128, 64),
        Tile(128, 128, 64, stages=4),
        Tile(128, 128, 32, stages=4),
        Tile(64, 128, 64, warps=4),
    ),
}
CANDIDATES |= {"d_rows": CANDIDATES["down"], "d_w13": CANDIDATES["d_w2"]}
"""What `tune` tries, in 16 bits; the first that fits the device is the guess where nothing was measured.

A larger `d_hidden` has too few registers for what follows its product.
"""

Tiles = Mapping[str, Tile]
"""Kernel → its tile."""


def tiles_for(shape: ShapeClass, device: torch.device) -> Tiles:
    """Of each kernel: as measured on this device for this shape or the nearest number of rows, or a guess."""
    measured = _measured(device_name(device))
    key = str(shape)
    if key not in measured:
        alike = [other for other in measured if other.rpartition("=")[0] == key.rpartition("=")[0]]
        if not alike:
            return _guessed(shape, _shared_memory(device))
        key = min(alike, key=lambda other: abs(_octave(other) - shape.rows.bit_length()))
    return measured[key]


def _octave(key: str) -> int:
    return int(key.rpartition("=")[2]).bit_length()


@functools.lru_cache(maxsize=256)
def _guessed(shape: ShapeClass, shared_memory_bytes: int) -> Tiles:
    return {kernel: guess(kernel, shape, shared_memory_bytes) for kernel in KERNELS}


def guess(kernel: str, shape: ShapeClass, shared_memory_bytes: int) -> Tile:
    """A tile that fits the device and the rows that there are; not a measured one."""
    if not shared_memory_bytes:
        return Tile(16, 16, 16, group=2)
    element_bytes, few = getattr(torch, shape.dtype).itemsize, max(16, min(128, shape.rows))
    if element_bytes > 2:  # multiplied without matrix units, unless TF32 is allowed
        tile = Tile(min(64, few), 64, 16, warps=4)
    else:
        fitting = [t for t in CANDIDATES[kernel] if shared_bytes(kernel, t, element_bytes) <= shared_memory_bytes]
        tile = (fitting or CANDIDATES[kernel][-1:])[0]
        if kernel not in OVER_ROWS:
            tile = replace(tile, rows=min(tile.rows, few), warps=tile.warps if few == 128 else 4)
    while tile.stages > 1 and shared_bytes(kernel, tile, element_bytes) > shared_memory_bytes:
        tile = replace(tile, stages=tile.stages - 1)
    return tile


def shared_bytes(kernel: str, tile: Tile, element_bytes: int) -> int:
    """Of shared memory that a program takes for what it loads ahead."""
    across = tile.rows + tile.columns * (2 if kernel in TWO_PRODUCTS else 1)
    return across * tile.depth * element_bytes * tile.stages


@functools.cache
def device_name(device: torch.device) -> str:
    """As the driver calls it."""
    return INTERPRETER if device.type == "cpu" else torch.cuda.get_device_name(device)


@functools.cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that one program can have; 0 for the interpreter."""
    if device.type == "cpu":
        return 0
    from triton.runtime import driver

    return int(driver.active.utils.get_device_properties(device.index or 0)["max_shared_mem"])


def user_file(name: str) -> Path:
    """Where the tiles measured on the device of this name are kept: below $XDG_CACHE_HOME, or ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "grainline" / "triton" / _file_name(name)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name) + ".json"


@functools.cache
def _measured(name: str) -> Mapping[str, Tiles]:
    """Shape class → tiles: what comes with the package for this device, and over it what was measured here."""
    found: dict[str, Tiles] = {}
    for path in (SHIPPED / _file_name(name), user_file(name)):
        if path.exists():
            found |= read(path)
    return found


def read(path: Path) -> dict[str, Tiles]:
    """Raises GrainlineError that names the file and what to do."""
    try:
        kept = json.loads(path.read_text())["tiles"]
        return {shape: {kernel: Tile(**tiles[kernel]) for kernel in KERNELS} for shape, tiles in kept.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GrainlineError(
            f"{path} doesn't hold measured tiles ({error!r}). Remove it; grainline hardware tune makes a new one."
        ) from error


def save(name: str, measured: Mapping[ShapeClass, Tiles]) -> Path:
    """Add to what is kept for the device of this name → its file."""
    path = user_file(name)
    kept = read(path) if path.exists() else {}
    kept |= {str(shape): tiles for shape, tiles in measured.items()}
    written = {shape: {k: asdict(tile) for k, tile in tiles.items()} for shape, tiles in sorted(kept.items())}
    make_folder(path.parent)
    write_atomically(path, json.dumps({"device": name, "tiles": written}, indent=2) + "\n")
    _measured.cache_clear()
    return path


def _next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
