"""Which engine plays a TaskGraph: the compiled one where it was built, the Python one elsewhere. Both say the same."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grainline import _compiled
from grainline.schedule.simulator import engine_py
from grainline.schedule.simulator.graph import Floats, Ints, TaskGraph


@dataclass(frozen=True)
class Played:
    """Start and end of each task in seconds (−1: never), and the memory effects in the order in which they took place.

    Row i of `graph.memory` is 2·i in `effects` where it takes effect at its task's start, 2·i + 1 at its end.
    """

    start: Floats
    end: Floats
    effects: Ints

    @property
    def done(self) -> NDArray[np.bool_]:
        """By task: whether it has ended."""
        done: NDArray[np.bool_] = self.end >= 0
        return done


def is_compiled() -> bool:
    """Whether the compiled engine is there."""
    return _engine() is not None


def play(graph: TaskGraph) -> Played:
    """Plays a graph that holds (`check`), with the compiled engine if it is there."""
    return play_compiled(graph) if is_compiled() else play_python(graph)


def play_python(graph: TaskGraph) -> Played:
    """The reference."""
    start, end, effects = engine_py.play(graph)
    return Played(np.array(start, np.float64), np.array(end, np.float64), np.array(effects, np.int32))


def play_compiled(graph: TaskGraph) -> Played:
    """engine.cpp. RuntimeError where it isn't there."""
    engine = _engine()
    if engine is None:
        raise RuntimeError("the compiled engine isn't there")
    disturbances = graph.disturbances()
    rows = len(graph.memory.task)
    sizes = (len(graph), len(graph.streams), len(graph.links), len(graph.tiers), rows, len(disturbances))
    limits = [float("inf") if tier.capacity_bytes is None else tier.capacity_bytes for tier in graph.tiers]
    start, end, effects = np.empty(len(graph)), np.empty(len(graph)), np.empty(2 * rows, np.int32)
    columns: list[Ints | Floats] = [
        _ints(sizes),
        _ints(graph.stream),
        _floats(graph.seconds),
        _floats(graph.bytes),
        _ints(graph.crosses.offsets),
        _ints(graph.crosses.values),
        _ints(graph.needs.offsets),
        _ints(graph.needs.values),
        _ints(graph.memory.task),
        _ints(graph.memory.tier),
        _floats(graph.memory.start_bytes),
        _floats(graph.memory.end_bytes),
        _floats(graph.base_bytes),
        _floats(limits),
        _floats([link.bytes_per_second for link in graph.links]),
        _ints([stream for stream, _, _ in disturbances]),
        _ints([by for _, by, _ in disturbances]),
        _floats([speed for _, _, speed in disturbances]),
        start,
        end,
        effects,
    ]
    done = engine(*(column.ctypes.data for column in columns))
    if done < 0:
        raise MemoryError("no memory for the simulation")
    return Played(start, end, effects[:done])


def _engine() -> Any:
    return _compiled.function("gl_simulate", [ctypes.c_void_p] * 21, ctypes.c_int64)


def _ints(values: Any) -> Ints:
    return np.ascontiguousarray(values, dtype=np.int32)


def _floats(values: Any) -> Floats:
    return np.ascontiguousarray(values, dtype=np.float64)
