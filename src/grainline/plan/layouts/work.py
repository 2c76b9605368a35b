"""Work: what an operator asks of one rank. Kernels by their FLOPs and bytes, and messages that it waits for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from grainline.plan.layouts.engine import Engine
from grainline.plan.layouts.shape import Shape
from grainline.plan.layouts.strategy import Strategy

Group = Literal["tensor", "context", "expert", "expert_tensor"]


@dataclass(frozen=True, slots=True)
class Op:
    """One kernel, or so many alike. `flops` and `bytes` are of all copies; rows × inner → rows × columns is each."""

    flops: float
    bytes: float
    rows: float = 0.0  # 0: no product
    columns: float = 0.0
    inner: float = 0.0
    copies: float = 1.0
    again: float = 0.0  # FLOPs that the kernel does once more, as flash attention's backward does the scores
    narrow: bool = False  # computed in eight bits, where the rest of the model is
    heaviest: float = 1.0  # the busiest rank's share of this over the mean, where ranks are unevenly loaded


@dataclass(frozen=True, slots=True)
class Message:
    """A collective that the rank waits for. `bytes` are of all that is gathered or reduced; of an exchange, one's."""

    group: Group
    kind: Literal["gather", "reduce", "exchange", "ring"]
    bytes: float
    behind: Op | None = None  # a kernel that runs meanwhile


@dataclass(frozen=True, slots=True)
class Work:
    """Kernels one after another, and messages."""

    ops: tuple[Op, ...] = ()
    messages: tuple[Message, ...] = ()


NOTHING = Work()


@dataclass(frozen=True, slots=True)
class Part:
    """Attention, or an FFN, with the norm before it and the sum after it."""

    forward: Work
    backward: Work
    kept: float  # bytes for the backward
    kept_light: float | None = None  # of them, where attention is recomputed; None: all
    again: Work = NOTHING  # what recomputation of attention alone does once more


@dataclass(frozen=True, slots=True)
class Load:
    """How unevenly experts are chosen: rows of the busiest rank over the mean."""

    time: float = 1.0  # on average over micro-batches and layers
    memory: float = 1.0  # at the 99th percentile


@dataclass(frozen=True)
class Setting:
    """What parts of a model have in common."""

    shape: Shape
    strategy: Strategy
    engine: Engine
    length: int  # of a sequence
    width: int = 2  # bytes of a value
    narrow: bool = False  # products take their operands in eight bits
    load: Load = Load()

    @property
    def tokens(self) -> float:
        """Of a micro-batch, on the ranks of one tensor-parallel group."""
        return self.strategy.sequences * self.length / self.strategy.context

    @property
    def between(self) -> float:
        """Tokens that a rank has between matrices."""
        return self.strategy.sequences * self.length / self.strategy.splits_sequence

    @property
    def operand(self) -> float:
        """Bytes of a value that a product takes."""
        return 1 if self.narrow else self.width

    def linear(self, rows: float, inner: float, columns: float, copies: float = 1.0) -> Op:
        """The product of a linear layer, or of so many alike."""
        moved = self.operand * (rows * inner + inner * columns) + self.width * rows * columns
        return Op(2 * rows * inner * columns * copies, moved * copies, rows, columns, inner, copies, 0.0, self.narrow)

    def made_narrow(self, values: float) -> tuple[Op, ...]:
        """Casting so many values for products in eight bits, along rows and columns (Transformer Engine)."""
        return (kernel((self.width + 2) * values),) if self.narrow else ()

    def back(self, op: Op) -> tuple[Op, ...]:
        """The gradients of a linear layer's input and weights, and adding the latter to their sum.

        Fused, the product reads and writes the float32 sum itself; else another kernel follows it.
        """
        weights = op.inner * op.columns * op.copies
        entering = replace(op, columns=op.inner, inner=op.columns)
        if self.engine.adds_bytes == 0:
            return entering, replace(op, rows=op.inner, inner=op.rows, bytes=op.bytes + (8 - self.operand) * weights)
        return entering, replace(op, rows=op.inner, inner=op.rows), kernel(self.engine.adds_bytes * weights)


def product(rows: float, inner: float, columns: float, width: float, copies: float = 1.0) -> Op:
    """A product of values, not of weights: scores, routers; never in eight bits."""
    moved = width * (rows * inner + inner * columns + rows * columns)
    return Op(2 * rows * inner * columns * copies, moved * copies, rows, columns, inner, copies)


def kernel(moved: float) -> Op:
    """Something that only moves bytes."""
    return Op(0.0, moved)


def flops(work: Work) -> float:
    """Of the products that the model asks for, what kernels do twice left out."""
    return sum(op.flops for op in work.ops)
