"""Work in a pipeline: a rank has some stages of the model, and all of its replica's sequences pass through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from grainline.documents import Recipe
from grainline.kernels.sink import GradientSink
from grainline.models.cells import Batch
from grainline.models.model import Model
from grainline.models.moe import step_bias
from grainline.parallel import Ranks, share
from grainline.parallel.pipeline import Connection, PipelineRuntime, StepResult
from grainline.parallel.pipeline.visits import mean_over_visits
from grainline.parallel.pipeline.vocabulary_group import SplitTables
from grainline.schedule import Timeline
from grainline.train.batches import sequences_of, share_of_step, split
from grainline.train.work import LocalSums

if TYPE_CHECKING:
    from grainline.data.dataset import TokenDataset


@dataclass
class Pipelined:
    """One rank's part of it; `training` and `evaluation` are runtimes of the same stages."""

    model: Model  # this rank's cells
    recipe: Recipe
    ranks: Ranks  # the world
    connection: Connection
    training: PipelineRuntime
    evaluation: PipelineRuntime
    train: TokenDataset
    bos_token_id: int | None
    split: SplitTables | None = None  # where the vocabulary is
    remark: str | None = None  # what a person should know
    gradient_mean: Literal["visits", "all"] = "visits"  # see `documents.plan.Pipeline`
    sink: GradientSink = field(default_factory=GradientSink)
    _last: StepResult | None = field(default=None, init=False)

    def share(self, step: int) -> range:
        """See `work.Work`: a replica's, alike on all ranks of its pipeline."""
        count, grid = self.recipe.batch_sequences, self.connection.grid
        return share_of_step(step, count, share(count, self.connection.replica, grid.replicas))

    def gradients(self, step: int) -> LocalSums:
        """See `work.Work`."""
        parts = list(split(self.share(step), self.training.schedule.microbatches))
        with self.sink.collecting():
            self._last = result = self.training.step(self._batches(self.train, parts))
        if self.gradient_mean == "visits" and self.training.shared is not None:
            mean_over_visits(self.training.schedule, self.training.shared)
        moe, layers = self.model.config.moe, len(self.model.config.sparse_layers)
        return LocalSums.of((sums for _, sums in result.sums), layers, 0 if moe is None else moe.choices)

    def clip(self, max_norm: float) -> float:
        """See `work.Work`. A parameter that several ranks hold counts once."""
        own = dict(self.model.named_parameters())
        assert self.training.shared is not None
        counted = [own[name].grad for name in self.training.shared.owned(self.connection.replica)]
        squares = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        if counted:
            squares += torch.nn.utils.get_total_norm([g for g in counted if g is not None]).double() ** 2
        norm = self.ranks.sum_(squares).sqrt().float()
        torch.nn.utils.clip_grads_with_norm_(own.values(), max_norm, norm)
        return norm.item()

    def balance(self, counts_LE: Tensor, rate: float) -> None:
        """See `work.Work`."""
        config = self.model.config
        held = [layer for layer, block in enumerate(self.model.blocks) if block is not None]
        held += [config.layers] if self.model.mtp is not None else []
        rows = [row for row, layer in enumerate(config.sparse_layers) if layer in held]
        step_bias(self.model, counts_LE[rows].to(self.ranks.device), rate)

    def score(self, dataset: TokenDataset, count: int) -> Tensor:
        """See `work.Work`. The rank with the head knows; where sequences run out, others pass for nothing."""
        mine = share(count, self.connection.replica, self.connection.grid.replicas)
        at_once, largest = self.evaluation.schedule.microbatches, self._largest
        sums = torch.zeros(2, dtype=torch.float64)
        rounds = max(1, -(-len(mine) // (at_once * largest)))
        parts = list(split(mine, rounds * at_once))
        for first in range(0, len(parts), at_once):
            these = parts[first : first + at_once]
            result = self.evaluation.step(self._batches(dataset, [part or range(1) for part in these]))
            for m, found in result.sums:
                if these[m] and found.tokens:
                    sums += torch.tensor([found.cross_entropy.item(), found.tokens], dtype=torch.float64)
        return sums

    @property
    def description(self) -> str:
        """For people: schedule and cut."""
        cells = ", ".join(str(len(cells)) for cells in self.training.stages)
        schedule, grid = self.training.schedule, self.connection.grid
        copies = f"{grid.replicas} pipelines" if grid.replicas > 1 else "a pipeline"
        return f"{copies} of {grid.ranks} ({schedule.name}, {schedule.microbatches} micro-batches, cells {cells})"

    @property
    def _largest(self) -> int:
        """Sequences in a micro-batch, at most."""
        return -(-self.recipe.batch_sequences // (self.training.schedule.microbatches * self.connection.grid.replicas))

    def timeline(self) -> Timeline | None:
        """See `work.Work`. Of this rank's replica."""
        return None if self._last is None else self.connection.timeline(self.training.schedule, self._last)

    def as_saved(self, name: str, tensor: Tensor) -> Tensor:
        """See `work.Work`."""
        return tensor if self.split is None else self.split.as_saved(name, tensor)

    def close(self) -> None:
        """See `work.Work`."""
        self.training.close()
        self.evaluation.close()
        self.connection.close()

    def _batches(self, dataset: TokenDataset, parts: Sequence[range]) -> list[Batch]:
        return [
            Batch.of(
                self.model.config,
                sequences_of(dataset, part, self.ranks.device),
                document_attention=self.recipe.data.document_attention,
                bos_token_id=self.bos_token_id,
                mtp_every=self.recipe.loss.mtp_every,
            )
            for part in parts
        ]
