"""Estimate: seconds of a step in parts, bytes of each rank by category, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grainline.documents.cluster import Source
from grainline.plan.layouts.strategy import Strategy

Floats = NDArray[np.float64]
NINE_IN_TEN = 1.645
"""Standard deviations either side of a normal's mean that hold nine tenths of it."""


class Memory(NamedTuple):
    """Bytes of one rank."""

    weights: float
    gradients: float
    optimizer: float
    activations: float  # kept for backwards
    logits: float
    working: float  # of the block that is being computed again, and of gathered weights
    buffers: float  # communication, driver, fragments

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


class Seconds(NamedTuple):
    """Of a step, on its critical path; they add up."""

    compute: float
    recompute: float
    tensor: float  # messages that nothing hides
    context: float
    expert: float
    bubble: float
    pipeline: float
    data: float
    update: float

    @property
    def total(self) -> float:
        """The step."""
        return sum(self)


class Spread(NamedTuple):
    """Standard deviations of the step's seconds, by the constants that they come from; independent of one another."""

    products: float  # rate of matrix products
    memory: float  # rate of the device's memory, and starts of kernels
    inside: float  # links inside nodes
    across: float  # and between them
    load: float  # how unevenly experts are chosen
    form: float  # what the closed form leaves out

    @property
    def total(self) -> float:
        """Of the step."""
        return math.hypot(*self)


@dataclass(frozen=True)
class Estimate:
    """Of one strategy."""

    strategy: Strategy
    cut: tuple[int, ...]  # cells of each stage
    seconds: Seconds
    bytes_of: Floats  # [pipeline ranks, categories of Memory]
    capacities: Floats  # bytes of each pipeline rank's smallest device
    spread: Spread
    sources: tuple[tuple[str, Source], ...]  # where the rates are from, by the names of Spread

    @property
    def step_seconds(self) -> float:
        """All parts."""
        return self.seconds.total

    @property
    def memory(self) -> tuple[Memory, ...]:
        """Of each pipeline rank."""
        return tuple(Memory(*row) for row in self.bytes_of.tolist())

    @property
    def capacity(self) -> tuple[float, ...]:
        """Bytes of each pipeline rank's smallest device."""
        return tuple(self.capacities.tolist())

    @property
    def fits(self) -> bool:
        """Whether every rank has memory enough."""
        return self.occupancy <= 1.0

    @cached_property
    def occupancy(self) -> float:
        """Of the fullest rank."""
        return float((self.bytes_of.sum(1) / self.capacities).max())

    @property
    def uncertainty(self) -> float:
        """Of the seconds, relative, one standard deviation."""
        return self.spread.total / self.step_seconds

    @property
    def interval(self) -> tuple[float, float]:
        """Seconds that hold the real step nine times in ten; a time is as likely half as long as twice."""
        factor = math.exp(NINE_IN_TEN * self.uncertainty)
        return self.step_seconds / factor, self.step_seconds * factor

    @property
    def binds(self) -> str:
        """The largest part besides compute, by name, where it is a tenth or more; else compute."""
        rest = {name: value for name, value in self.seconds._asdict().items() if name != "compute"}
        name = max(rest, key=lambda n: rest[n])
        return name if rest[name] >= 0.1 * self.step_seconds else "compute"
