"""Overlap: how one MoE layer's tiles and messages are interleaved. Pure functions from a layer to a list of tasks."""

from __future__ import annotations

from collections.abc import Callable

from grainline.schedule.overlap.check import check, check_times
from grainline.schedule.overlap.chunks import chunked, serial
from grainline.schedule.overlap.fused import fused
from grainline.schedule.overlap.layer import ExpertLayer, TileDevice, TileShape
from grainline.schedule.overlap.lower import lower, simulate_tiles, spent
from grainline.schedule.overlap.options import Options
from grainline.schedule.overlap.tasks import TilePlan, TileTask, What
from grainline.schedule.overlap.tile_order import tile_order

Overlap = Callable[[ExpertLayer, Options], TilePlan]
"""A layer's counts and sizes → its tasks, in an order that has each after all it waits for."""

OVERLAPS: dict[str, Overlap] = {
    "serial": serial,
    "chunks": chunked,
    "tile": tile_order,
    "fused": fused,
}

__all__ = [
    "OVERLAPS",
    "ExpertLayer",
    "Options",
    "Overlap",
    "TileDevice",
    "TilePlan",
    "TileShape",
    "TileTask",
    "What",
    "check",
    "check_times",
    "chunked",
    "fused",
    "lower",
    "serial",
    "simulate_tiles",
    "spent",
    "tile_order",
]
