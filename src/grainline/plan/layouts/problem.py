"""Problem: what is to be planned. A model, a batch, a fleet and an engine; with what an evaluation needs, kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from grainline.documents import GrainlineError
from grainline.plan.layouts.engine import Engine
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.load import USUAL, Imbalance
from grainline.plan.layouts.pace import Pace, Reach
from grainline.plan.layouts.shape import Shape
from grainline.plan.layouts.work import Load

WIDTH = {"float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2, "float8": 2}
"""Bytes of a value that passes from one operator to the next: in float8 only the products' operands are narrow."""


@dataclass(frozen=True)
class Problem:
    """Devices that a strategy leaves over are not used."""

    shape: Shape
    fleet: Fleet
    engine: Engine
    batch_sequences: int
    length: int
    dtype: str = "bfloat16"
    imbalance: Imbalance | Load = USUAL  # of experts; a Load is taken as it is, whatever the strategy
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
        """Bytes of a value that passes from one operator to the next."""
        return WIDTH.get(self.dtype, 2)

    @property
    def weight_bytes(self) -> float:
        """Of a parameter: the engine's, and in float8 two copies for products, along rows and columns."""
        return self.engine.weight_bytes + (2 if self.dtype == "float8" else 0)

    @cached_property
    def paces(self) -> dict[str, Pace]:
        """Of each device type, by name."""
        kinds = {device.name: device for device in self.fleet.types}
        return {name: Pace.of(device, self.dtype, self.reach) for name, device in kinds.items()}

    @cached_property
    def cells(self) -> tuple[str, ...]:
        """What the model is cut into, in order."""
        blocks = ("moe" if self.shape.is_sparse(layer) else "dense" for layer in range(self.shape.layers))
        return ("embedding", *blocks, *("mtp",) * self.shape.mtp, "head")

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Of cells, each once."""
        return tuple(dict.fromkeys(self.cells))
