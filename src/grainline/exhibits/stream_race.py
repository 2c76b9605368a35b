"""STREAM by one generic source against native STREAM, in turns: a repetition of one, a repetition of the other.

Both run over the same memory, shared between the processes. With arrays of their own, whoever got them first differed
from the other by a tenth on a virtual machine, whoever it was: which pages one gets is luck.
"""

from __future__ import annotations

import math
import mmap
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grainline.exhibits.figure import MARKERS, MUTED, colour, drawing, svg
from grainline.exhibits.frame import NotRun
from grainline.exhibits.native_stream import NativeStream, compile_native
from grainline.kernels.executor import Executor
from grainline.kernels.stream import BYTES_OF, KERNELS, Native, Stream, instruction_sets
from grainline.kernels.stream.benchmark import EXACT_REPETITIONS, Kernel
from grainline.kernels.stream.native import Policy, Store
from grainline.kernels.targets import ANYWHERE, Target

MOST_COUNTED = EXACT_REPETITIONS["float64"] // 2 - 1
"""Repetitions of each between two resets, besides one to warm up: so many that the result is still exact."""
PAUSE_SECONDS = 0.02
"""Before each turn: OpenMP's threads spin for a while when their work is done, on cores that the other wants."""
DOUBLE = 8

Lap = tuple[Store, Kernel]
SIDES = {"native": "native C, OpenMP", "ours": "one generic source"}


@dataclass(frozen=True)
class Race:
    """One round: best seconds of each store and kernel, and the threads that computed."""

    ours: Mapping[Lap, float]
    native: Mapping[Lap, float]
    threads: int
    elements: int

    def bytes_per_second(self, who: str) -> dict[Lap, float]:
        """Of one of SIDES, by STREAM's way to count."""
        seconds = self.ours if who == "ours" else self.native
        return {lap: BYTES_OF[lap[1]] * DOUBLE * self.elements / spent for lap, spent in seconds.items()}

    @property
    def ratios(self) -> dict[Lap, float]:
        """Our rate over the native one."""
        return {lap: self.native[lap] / self.ours[lap] for lap in self.ours}

    @property
    def ratio(self) -> float:
        """The median over kernels and stores."""
        return statistics.median(self.ratios.values())


def race(
    policy: Policy, stores: Sequence[Store], target: Target, elements: int, repetitions: int, seed: int, folder: Path
) -> Race:
    """A round: `repetitions` of each that count, on memory that is new. Odd seeds: native touches it first.

    Both use as many threads: all of the target's cores, bound to them, for policies with many threads, else one,
    unbound. Raises NotRun without the compiled core, a C compiler or memory that processes can share.
    """
    if not instruction_sets():
        raise NotRun("the compiled core isn't there: grainline doctor says what to install.")
    if not hasattr(os, "memfd_create"):
        raise NotRun("both programs run over the same memory, which needs Linux's memfd_create.")
    program = compile_native(folder, scalar=not policy.endswith("simd"))
    cores = target.cores if policy.startswith("par") else (ANYWHERE,)
    best: tuple[dict[Lap, float], dict[Lap, float]] = ({}, {})
    with ExitStack() as stack:
        file = os.memfd_create("grainline-stream")
        stack.callback(os.close, file)
        arrays = _arrays(file, elements)
        executor = stack.enter_context(Executor(target))
        theirs = stack.enter_context(NativeStream(program, elements, cores, file))
        if seed % 2:
            theirs.reset()
        ours = Stream(Native(executor, policy), elements, arrays=arrays)
        for store in stores:
            ours.backend, left = Native(executor, policy, store), repetitions
            while left > 0:
                counted = min(left, MOST_COUNTED)
                left -= counted
                ours.reset()
                for repetition in range(1 + counted):
                    for who in (0, 1) if (repetition + seed) % 2 else (1, 0):
                        time.sleep(PAUSE_SECONDS)
                        seconds = theirs.repetition(store) if who else ours.repetition()
                        for kernel in KERNELS if repetition else ():
                            best[who][store, kernel] = min(seconds[kernel], best[who].get((store, kernel), math.inf))
                ours.check(repetitions=2 * (1 + counted))
    return Race(*best, threads=theirs.threads, elements=elements)


def _arrays(file: int, elements: int) -> list[Any]:
    """Three arrays of doubles in a file of memory, each from a whole page on; nothing is touched."""
    size = -(-elements * DOUBLE // mmap.PAGESIZE) * mmap.PAGESIZE
    os.ftruncate(file, 3 * size)
    pages = mmap.mmap(file, 3 * size)
    return [np.frombuffer(pages, "float64", count=elements, offset=i * size) for i in range(3)]


def both_stores(policy: Policy) -> tuple[Store, ...]:
    """Those that a policy has here; the native program has streaming ones on x86-64 only."""
    streams = policy.endswith("simd") and platform.machine() == "x86_64"
    return ("ordinary", "streaming") if streams else ("ordinary",)


def race_figure(policy: Policy, races: Sequence[Race]) -> str:
    """Rates of both, and their ratios, a point for each round."""
    laps = list(races[0].ours)
    names = [kernel if store == "ordinary" else f"{kernel}\nstream" for store, kernel in laps]
    with drawing(2, width=8.4) as (figure, (left, right)):
        for i, (who, words) in enumerate(SIDES.items()):
            for at, lap in enumerate(laps):
                of = [one.bytes_per_second(who)[lap] / 1e9 for one in races]
                (line,) = left.plot(
                    [at + 0.22 * (i - 0.5)] * len(of), of, color=colour(i), marker=MARKERS[i], ms=4, ls=""
                )
                line.set_label(words if at == 0 else "")
        left.set(ylabel="GB/s", title=f"{policy}: best of each round")
        left.set_ylim(bottom=0)
        left.legend()
        for at, lap in enumerate(laps):
            of = [one.ratios[lap] for one in races]
            right.plot([at] * len(of), of, color=colour(1), marker=MARKERS[1], ms=4, ls="")
        right.axhline(1, color=MUTED[0], lw=0.8)
        right.axhline(0.95, color=MUTED[0], lw=0.8, ls=":")
        right.set(ylabel="generic / native", title="Ratio; dotted: the bound")
        for axes in (left, right):
            axes.set_xticks(range(len(laps)), names, fontsize=7 if len(laps) > len(KERNELS) else 9)
        return svg(figure, f"modern-cpp.{policy}", f"STREAM by one generic source ({policy}) against native C.")
