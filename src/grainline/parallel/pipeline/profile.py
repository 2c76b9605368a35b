"""What cells and messages cost here, each measured by itself: what a prediction of a pipelined step is made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from grainline.documents import ModelConfig
from grainline.documents.recipe import Loss
from grainline.kernels import WeightQueue
from grainline.models.build import build
from grainline.models.cells import Batch, Carry, cell_names
from grainline.models.model import Model
from grainline.parallel.pipeline.boundary import Names, boundaries
from grainline.parallel.pipeline.stage import Kept, Stage
from grainline.schedule import Costs, Hop, Kind, StageCost

ROUNDS = 9

Seconds = Mapping[Kind, float]
"""Of one cell, for one micro-batch on one rank, by kind: F, B, I, W and R."""


def profile_cells(
    config: ModelConfig, batch: Batch, loss: Loss, *, dtype: torch.dtype, rounds: int = ROUNDS
) -> Iterator[tuple[str, dict[Kind, float]]]:
    """Each cell of a model by itself, forward and backward on random input: medians over rounds after a first one.

    The caller's threads and cores are used; ranks that will share a machine should profile at the same time, because
    they will share its memory and its clock as well.
    """
    cells = tuple(cell_names(config))
    crossing = boundaries(tuple(Hop(i, 0) for i in range(len(cells))), [(cell,) for cell in cells])
    for cell, enters in zip(cells, crossing, strict=False):
        model = build(config, cells=[cell])
        model.compute_dtype = dtype
        trial = _Trial(Stage((cell,), model, loss, batch.label_BS.numel()), model, batch, enters)
        yield cell, {kind: statistics.median(seconds[1:]) for kind, seconds in trial.seconds(rounds + 1).items()}


@dataclass(frozen=True)
class _Trial:
    """One cell, and what enters it."""

    stage: Stage
    model: Model
    batch: Batch
    enters: Names

    def seconds(self, rounds: int) -> dict[Kind, list[float]]:
        """Of all rounds: with the backward whole, then split."""
        taken: dict[Kind, list[float]] = {kind: [] for kind in (Kind.F, Kind.B, Kind.I, Kind.W)}
        for _ in range(rounds):
            kept = self._forward(taken[Kind.F])
            self._timed(taken[Kind.B], partial(self._backward, kept))
        queue = WeightQueue()
        self.model.defer_weights(queue)
        for _ in range(rounds):
            kept = self._forward([])
            with queue.collecting() as work:
                self._timed(taken[Kind.I], partial(self._backward, kept))
            self._timed(taken[Kind.W], partial(_all, work))
        return taken | {Kind.R: taken[Kind.F]}

    def _forward(self, into: list[float]) -> Kept:
        entered = Carry(**{name: self._random(name) for name in self.enters})
        found: list[Kept] = []

        def run() -> None:
            left, objective, _ = self.stage.forward(self.batch, entered)
            found.append(Kept(entered, left, objective))

        self._timed(into, run)
        return found[0]

    def _backward(self, kept: Kept) -> None:
        kept.backward([torch.ones_like(t) for t in kept.left.tensors])

    def _random(self, name: str) -> Tensor:
        rows, length = self.batch.ids_BS.shape
        if name == "further_bSD":
            assert self.batch.further is not None
            rows = len(self.batch.further.row_b)
        shape = rows, length, self.model.config.hidden_size
        return torch.randn(shape, dtype=self.model.dtype, requires_grad=True)

    def _timed(self, into: list[float], work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        work()
        into.append(time.perf_counter() - begin)


def _all(work: Sequence[Callable[[], None]]) -> None:
    for one in work:
        one()


def costs_of(profiles: Sequence[Mapping[str, Seconds]], stages: Sequence[Sequence[str]], output_bytes: float) -> Costs:
    """Costs of stages on ranks: sums over their cells, as `profiles[rank]` has them on that rank."""

    def stage(number: int, rank: int) -> StageCost:
        of_cells = [profiles[rank][cell] for cell in stages[number]]
        kinds = (Kind.F, Kind.B, Kind.I, Kind.W, Kind.R)
        return StageCost({kind: sum(seconds[kind] for seconds in of_cells) for kind in kinds}, output_bytes)

    return Costs(stage)
