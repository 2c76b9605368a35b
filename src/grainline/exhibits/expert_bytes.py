"""Bytes that an all-to-all would move if every expert were on another rank: counted where rows go to their experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from grainline.models.moe import Dispatcher, ExpertGroup, MoeLayer, Routing


@dataclass
class Counter:
    """A dispatcher that counts, and lets another do the work."""

    inner: Dispatcher
    forward_bytes: int = 0  # rows to their experts, and back
    backward_bytes: int = 0  # gradients of both
    rows: list[int] = field(default_factory=list)  # of each call

    def __call__(self, x_TD: Tensor, routing: Routing, experts: ExpertGroup) -> Tensor:
        """See `models.moe.Dispatcher`."""
        rows = len(routing.unit_N)
        self.rows.append(rows)
        out_TD = self.inner(x_TD, routing, experts)
        for tensor in (x_TD, out_TD):
            self.forward_bytes += rows * tensor.shape[1] * tensor.element_size()
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: self._back(rows, gradient))
        return out_TD

    def _back(self, rows: int, gradient: Tensor) -> None:
        self.backward_bytes += rows * gradient.shape[1] * gradient.element_size()

    @classmethod
    def on(cls, layer: MoeLayer) -> Counter:
        """Put in the place of a layer's dispatcher."""
        counter = cls(layer.dispatcher)
        layer.dispatcher = counter
        return counter
