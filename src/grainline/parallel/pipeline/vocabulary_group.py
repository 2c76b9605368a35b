"""The process group of vocabulary passes, and the passes over it. All ranks make these calls together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from grainline.documents.recipe import Loss
from grainline.models.model import Model
from grainline.models.part import keep_rows
from grainline.parallel.pipeline.connect import Connection
from grainline.parallel.pipeline.vocabulary import rows_of
from grainline.parallel.pipeline.vocabulary_passes import VocabularyPasses
from grainline.schedule.passes.vocabulary import Algorithm


@dataclass(frozen=True)
class GroupExchange:
    """Collectives over a process group of its own, whose member r is pipeline rank r."""

    group: dist.ProcessGroup
    rank: int
    ranks: int

    def all_gather(self, x: Tensor) -> Tensor:
        """See `Exchange`."""
        out = x.new_empty(self.ranks, *x.shape)
        dist.all_gather(list(out.unbind(0)), x, group=self.group)
        return out

    def all_reduce_(self, x: Tensor) -> None:
        """See `Exchange`."""
        dist.all_reduce(x, group=self.group)

    def broadcast_(self, x: Tensor, source: int) -> None:
        """From one rank to all, in place."""
        dist.broadcast(x, group=self.group, group_src=source)

    def reduce_(self, x: Tensor, to: int) -> None:
        """Sum over ranks, in place at one; what the others have then means nothing."""
        dist.reduce(x, group=self.group, group_dst=to)


def vocabulary_passes(
    connection: Connection, model: Model, algorithm: Algorithm, *, loss: Loss, batch_tokens: int
) -> VocabularyPasses:
    """The passes of this rank, over a group that nothing else uses. All ranks of all replicas call this together.

    `model` has the modules of this rank's cells and of "vocabulary" (`models.part`), with all rows of the tables: they
    are cut to this rank's.
    """
    grid = connection.grid
    groups = [
        dist.new_group(
            [grid.world_rank(rank, replica) for rank in range(grid.ranks)],
            timeout=timedelta(seconds=connection.timeout_seconds),
        )
        for replica in range(grid.replicas)
    ]
    exchange = GroupExchange(groups[connection.replica], connection.rank, grid.ranks)
    keep_rows(model, rows_of(model.config.vocab_size, exchange.rank, exchange.ranks))
    return VocabularyPasses(model, algorithm, exchange, loss, batch_tokens)


@dataclass(frozen=True)
class SplitTables:
    """How a rank's rows are part of whole tables, in a checkpoint: as if there were no ranks."""

    mesh: DeviceMesh  # pipeline ranks × replicas
    vocab_size: int

    @classmethod
    def of(cls, connection: Connection, vocab_size: int) -> SplitTables:
        """All ranks call this together."""
        shape = connection.grid.ranks, connection.grid.replicas
        return cls(init_device_mesh(connection.device.type, shape), vocab_size)

    def as_saved(self, name: str, tensor: Tensor) -> Tensor:
        """The live rows of a table, or of its optimiser's state, as a part of it; any other tensor as it is."""
        owner = name.split(".")[-2:-1]
        if owner not in (["embedding"], ["head"]):
            return tensor
        shape = torch.Size((self.vocab_size, *tensor.shape[1:]))
        return DTensor.from_local(
            tensor.detach(), self.mesh, (Shard(0), Replicate()), run_check=False, shape=shape, stride=tensor.stride()
        )
