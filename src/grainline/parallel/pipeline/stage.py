"""A stage: some cells of a model, run forward to what the next stage needs, and backward from what it gives back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from grainline.documents.recipe import Loss
from grainline.models.cells import Batch, Carry, Tally, run_cell
from grainline.models.loss import LossSums, run_cells
from grainline.models.model import Model
from grainline.parallel.pipeline.boundary import Cells


@dataclass(frozen=True)
class Kept:
    """What lies between a stage's forward and its backward."""

    entered: Carry  # leaves of the graph
    left: Carry
    objective: Tensor | None  # the stage's own part of the loss

    def backward(self, gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Add to the parameters' gradients; returns those of what entered. `gradients` are of what left."""
        roots: list[Tensor] = []
        of_roots: list[Tensor | None] = []
        for tensor, gradient in zip(self.left.tensors, gradients, strict=True):
            if tensor.requires_grad:
                roots.append(tensor)
                of_roots.append(gradient)
        if self.objective is not None and self.objective.requires_grad:
            roots.append(self.objective)
            of_roots.append(None)
        if roots:
            torch.autograd.backward(roots, of_roots)
        return tuple(torch.zeros_like(t) if t.grad is None else t.grad for t in self.entered.tensors)


@dataclass(frozen=True)
class Stage:
    """Some cells of a model; `model` may be a part that has no more than this rank's cells."""

    cells: Cells
    model: Model
    loss: Loss
    batch_tokens: int  # of the whole step

    def forward(self, batch: Batch, entered: Carry) -> tuple[Carry, Tensor | None, LossSums | None]:
        """What is left for the next stage, this stage's part of the objective if it has one, and its sums."""
        if not self.cells:
            return entered, None, None
        if not self.has_terms:
            tally = Tally()
            for cell in self.cells:
                entered = run_cell(cell, self.model, batch, entered, tally)
            return entered, None, None
        left, sums = run_cells(self.model, self.cells, batch, entered)
        return left, sums.objective(self.loss, self.batch_tokens), sums

    @cached_property
    def has_terms(self) -> bool:
        """Whether any cell adds to the loss: a head, or a router."""
        config = self.model.config
        for cell in self.cells:
            kind, _, layer = cell.partition(".")
            number = config.layers if kind == "mtp" else int(layer or -1)
            if kind in ("head", "mtp_head") or (kind in ("block", "mtp") and config.is_sparse(number)):
                return True
        return False


@dataclass(frozen=True)
class RandomState:
    """The generators' states before a forward that will be run again, so that it draws the same numbers."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """Of the CPU and of `device`."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    @contextmanager
    def again(self, device: torch.device) -> Iterator[None]:
        """Put them back within."""
        with torch.random.fork_rng([device] if self.cuda is not None else []):
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, device)
            yield
