"""Weights' gradients made where they are kept, rather than in fresh memory that is then added to.

A gradient as large as all of a layer's experts is some hundred MB: for a few hundred tokens the system takes longer to
give so many pages than the products take. Within `GradientSink.collecting` an op that knows how writes a weight's
gradient into memory of the step before, and adds that of the next micro-batch to it, as Megatron's `main_grad` has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor


class Place(NamedTuple):
    """Where a gradient goes; what is there before counts only where `holds`."""

    gradient: Tensor
    holds: bool

    def add(self, found: Tensor) -> None:
        """Put a gradient there that lies elsewhere, of whatever dtype."""
        self.gradient.add_(found) if self.holds else self.gradient.copy_(found)

    def summed(self) -> Tensor:
        """The gradient, to be added to."""
        return self.gradient if self.holds else self.gradient.zero_()


class GradientSink:
    """Keeps the memory of weights' gradients, of one model for as long as it learns.

    Nothing is written over that anybody else holds. To be opened where weights' `.grad` is what is wanted (`backward`,
    not `torch.autograd.grad`), and nobody waits for autograd to bring it: not under DDP or FSDP. A weight with hooks
    gets its gradient from autograd.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Backwards of this thread, within, leave gradients here."""
        token = _open.set(self)
        try:
            yield
        finally:
            _open.reset(token)

    def takes(self, weight: Tensor) -> bool:
        """Whether a weight's gradient can be left here, rather than given to autograd."""
        has_hooks = weight._backward_hooks or weight._post_accumulate_grad_hooks
        return _is_plain(weight) and not has_hooks and (weight.grad is None or _is_plain(weight.grad))

    def place(self, weight: Tensor) -> Place:
        """A weight's `.grad`, set if it has none."""
        if weight.grad is not None:
            return Place(weight.grad, holds=True)
        kept = self._kept.get(id(weight))
        if kept is None or (kept.shape, kept.dtype) != (weight.shape, weight.dtype) or is_shared(kept):
            kept = self._kept[id(weight)] = torch.empty_like(weight, requires_grad=False)
        weight.grad = kept.detach()
        return Place(weight.grad, holds=False)


_open: ContextVar[GradientSink | None] = ContextVar("grainline_gradient_sink", default=None)


def open_sink() -> GradientSink | None:
    """The one that this thread collects in."""
    return _open.get()


def place_of(weight: Tensor) -> Place:
    """Where a weight's gradient is added to now: in the open sink, or else in its `.grad`, set if it has none."""
    sink = open_sink()
    if sink is not None and sink.takes(weight):
        return sink.place(weight)
    holds = weight.grad is not None
    if weight.grad is None:
        weight.grad = torch.empty_like(weight)
    return Place(weight.grad, holds)


def is_shared(tensor: Tensor, holders: int = 1) -> bool:
    """Whether more than so many tensors lie in its memory; true where that can't be told."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    return count is None or int(count(tensor.untyped_storage()._cdata)) > holders + 1  # what asks is one more


def _is_plain(tensor: Tensor) -> bool:
    """A leaf in one piece of the host's memory, of no class that has its own ideas of a gradient."""
    known = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    return known and tensor.is_leaf and tensor.device.type == "cpu" and tensor.is_contiguous()
