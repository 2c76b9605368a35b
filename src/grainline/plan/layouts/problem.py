"""Problem: what is to be planned. A model, a batch, a fleet and an engine; with what an evaluation needs, kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from grainline.documents import GrainlineError
from grainline.plan.layouts.engine import Engine
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.operators import Load
from grainline.plan.layouts.pace import Pace, Reach
from grainline.plan.layouts.shape import Shape

UNEVEN = Load(1.1, 1.3)
"""Assumed, where no routing trace says more."""
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1}


@dataclass(frozen=True)
class Problem:
    """Devices that a strategy leaves over are not used."""

    shape: Shape
    fleet: Fleet
    engine: Engine
    batch_sequences: int
    length: int
    dtype: str = "bfloat16"
    load: Load = UNEVEN  # of the busiest rank's experts: on average, and at its 99th percentile
    reach: Reach | None = None  # None: by where the device's rates come from
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raises GrainlineError for a batch of nothing."""
        if self.batch_sequences < 1 or self.length < 1:
            raise GrainlineError(
                f"a batch of {self.batch_sequences} sequences of {self.length} tokens: there must be 1 or more of each"
            )

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch_sequences * self.length

    @property
    def width(self) -> int:
        """Bytes of a value that is computed with."""
        return WIDTH.get(self.dtype, 2)

    @cached_property
    def paces(self) -> dict[str, Pace]:
        """Of each device type, by name."""
        kinds = {device.name: device for device in self.fleet.types}
        return {name: Pace.of(device, self.dtype, self.reach) for name, device in kinds.items()}
