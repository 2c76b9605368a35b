"""What cells and messages cost here, each measured by itself: what a prediction of a pipelined step is made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grainline.documents import ModelConfig
from grainline.documents.recipe import Loss
from grainline.kernels import WeightQueue
from grainline.models.build import build
from grainline.models.cells import Batch, Carry, cell_names
from grainline.models.model import Model
from grainline.parallel.pipeline.boundary import ROUTER, Names, boundaries, carrying, shape_of
from grainline.parallel.pipeline.stage import Kept, Stage
from grainline.schedule import Costs, Hop, Kind, StageCost

ROUNDS, HELD = 6, 4

Seconds = Mapping[Kind, float]
"""Of one cell, for one micro-batch on one rank, by kind: F, B, I, W and R."""


def profile_cells(
    config: ModelConfig, batch: Batch, loss: Loss, *, dtype: torch.dtype, rounds: int = ROUNDS
) -> dict[str, dict[Kind, float]]:
    """Each cell of a model by itself, forward and backward on random input: means over rounds after a first one.

    A cell that is run again and again finds its weights in the cache, and memory that it has just freed; in a pipeline
    it doesn't. So cells take turns, and several micro-batches are held between their forwards and their backwards.
    Means, because what holds a short cell up now and then counts in a step as often as it happens. The caller's threads
    and cores are used; ranks that will share a machine should profile at the same time.
    """
    cells = tuple(cell_names(config))
    path = tuple(Hop(i, 0) for i in range(len(cells)))
    crossing = boundaries(path, [(cell,) for cell in cells], carriers=carrying(config))
    trials = []
    for cell, enters in zip(cells, crossing, strict=False):
        model = build(config, cells=[cell])
        model.compute_dtype = dtype
        trials.append(_Trial(Stage((cell,), model, loss, batch.label_BS.numel()), model, batch, enters))
    for split in (False, True):
        for number in range(rounds + 1):
            _take_turns(trials, split, note=number > 0)
    return {
        cell: {kind: statistics.fmean(seconds) for kind, seconds in trial.taken.items()}
        for cell, trial in zip(cells, trials, strict=True)
    }


def _take_turns(trials: Sequence[_Trial], split: bool, note: bool) -> None:
    """HELD micro-batches forward through all cells, and then backward."""
    kept = [[trial.forward(note and not split) for trial in trials] for _ in range(HELD)]
    for of_cells in kept:
        for trial, one in reversed(list(zip(trials, of_cells, strict=True))):
            if split:
                trial.backward_split(one, note)
            else:
                trial.backward(one, note)


@dataclass(frozen=True)
class _Trial:
    """One cell, what enters it, and what it has taken."""

    stage: Stage
    model: Model
    batch: Batch
    enters: Names
    taken: dict[Kind, list[float]] = field(default_factory=dict)
    queue: WeightQueue = field(default_factory=WeightQueue)

    def forward(self, note: bool) -> Kept:
        """Of one micro-batch on random input; its time stands for a recomputation's, too."""
        entered = Carry(**{name: self._random(name) for name in self.enters})
        begin = time.perf_counter()
        left, objective, _ = self.stage.forward(self.batch, entered)
        self._note((Kind.F, Kind.R), time.perf_counter() - begin, note)
        return Kept(entered, left, objective)

    def backward(self, kept: Kept, note: bool) -> None:
        """Whole."""
        self._note((Kind.B,), self._seconds(kept), note)

    def backward_split(self, kept: Kept, note: bool) -> None:
        """First the input's gradient, then the weights'."""
        self.model.defer_weights(self.queue)  # from the next forward on
        with self.queue.collecting() as work:
            self._note((Kind.I,), self._seconds(kept), note)
        begin = time.perf_counter()
        for one in work:
            one()
        self._note((Kind.W,), time.perf_counter() - begin, note)

    def _seconds(self, kept: Kept) -> float:
        gradients = [torch.ones_like(t) for t in kept.left.tensors]
        begin = time.perf_counter()
        kept.backward(gradients)
        return time.perf_counter() - begin

    def _note(self, kinds: Sequence[Kind], seconds: float, note: bool) -> None:
        for kind in kinds if note else ():
            self.taken.setdefault(kind, []).append(seconds)

    def _random(self, name: str) -> Tensor:
        dtype = self.model.stream_dtype
        if name == ROUTER:
            dtype = torch.promote_types(dtype, torch.float32)
        return torch.randn(shape_of(name, self.model.config, self.batch), dtype=dtype, requires_grad=True)


def costs_of(profiles: Sequence[Mapping[str, Seconds]], stages: Sequence[Sequence[str]], output_bytes: float) -> Costs:
    """Costs of stages on ranks: sums over their cells, as `profiles[rank]` has them on that rank."""

    def stage(number: int, rank: int) -> StageCost:
        of_cells = [profiles[rank][cell] for cell in stages[number]]
        kinds = (Kind.F, Kind.B, Kind.I, Kind.W, Kind.R)
        return StageCost({kind: sum(seconds[kind] for seconds in of_cells) for kind in kinds}, output_bytes)

    return Costs(stage)
