"""The process groups of a pipelined run, and runtimes that talk over them. All ranks make these calls together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from grainline.documents import GrainlineError
from grainline.documents.recipe import Loss
from grainline.models.model import Model
from grainline.parallel.pipeline.boundary import Cells, check_cells, check_paths
from grainline.parallel.pipeline.failure import Watch
from grainline.parallel.pipeline.record import clock_offset, timeline
from grainline.parallel.pipeline.reduce import (
    Grid,
    Holders,
    SharedGradients,
    holder_groups,
    holders_by_module,
    stages_by_module,
)
from grainline.parallel.pipeline.runtime import TIMEOUT_SECONDS, Passes, PipelineRuntime, StepResult
from grainline.parallel.pipeline.transport import GlooTransport, NcclTransport, Transport, messages_of, nccl_channels
from grainline.schedule import Schedule, Timeline

CONNECT_SECONDS = 60.0


@dataclass
class Connection:
    """This process's place in a grid of pipeline ranks and replicas, over the whole world of torch.distributed."""

    grid: Grid
    device: torch.device
    timeout_seconds: float = TIMEOUT_SECONDS
    _groups: dict[Holders, dist.ProcessGroup] = field(default_factory=dict)

    def __post_init__(self) -> None:
        world = self.grid.ranks * self.grid.replicas
        if dist.get_world_size() != world:
            raise ValueError(f"a grid of {world} ranks in a world of {dist.get_world_size()}")
        self.rank, self.replica = self.grid.place(dist.get_rank())
        self.members = [self.grid.world_rank(rank, self.replica) for rank in range(self.grid.ranks)]
        # Messages have a group of their own: it breaks when a rank is gone, and takes no other with it.
        self.group = dist.new_group(backend="gloo", timeout=self._timeout)
        # Notes of an earlier connection's failure mean nothing to this one.
        store = dist.PrefixStore(f"{self.group.group_name}/{self.replica}", _get_default_store())
        self.watch = Watch(self.rank, store, self.timeout_seconds)

    @property
    def _timeout(self) -> timedelta:
        """Of groups: for making them too, which waits for ranks that are still starting."""
        return timedelta(seconds=max(self.timeout_seconds, CONNECT_SECONDS))

    def transport(self, schedule: Schedule) -> Transport:
        """For the messages of a schedule."""
        messages = messages_of(schedule.actions)
        if self.device.type != "cuda":
            return GlooTransport(messages, self.members, self.group)
        tables = [
            nccl_channels(messages, [self.grid.world_rank(rank, replica) for rank in range(self.grid.ranks)])
            for replica in range(self.grid.replicas)
        ]
        return NcclTransport(tables[self.replica])

    def shared(
        self, schedule: Schedule, stages: Sequence[Cells], model: Model, own_modules: Sequence[str] = ()
    ) -> SharedGradients:
        """What sums the gradients of parameters that several ranks hold; of `own_modules` each has a part to itself."""
        by_module = stages_by_module(model.config, stages)
        holders = holders_by_module(schedule, by_module)
        every = {(rank,) for rank in range(self.grid.ranks)} if own_modules else set()
        missing = ({*holders.values()} | every) - set(self._groups)
        self._groups |= holder_groups(missing, self.grid, self._timeout)
        for module in own_modules:
            by_module[module], holders[module] = frozenset({-1}), (self.rank,)
        return SharedGradients(dict(model.named_parameters()), by_module, holders, self._groups, self.rank)

    def runtime(
        self,
        schedule: Schedule,
        stages: Sequence[Cells],
        model: Model,
        *,
        loss: Loss,
        batch_tokens: int,
        passes: Passes | None = None,
        backwards: Literal["planned", "arrival"] = "planned",
    ) -> PipelineRuntime:
        """A runtime of this rank. `schedule` has its messages; `stages` are the cells of all stages, by number.

        Raises GrainlineError where stages or paths don't make up the model, or backwards can't come as they arrive.
        """
        if backwards == "arrival" and (passes is not None or self.device.type == "cuda"):
            raise GrainlineError(
                "pipeline.backwards = 'arrival' works neither with vocabulary passes, whose order is one for all, nor "
                "over NCCL, whose messages come in the order of the lists. Leave it out."
            )
        if passes is None:
            check_cells(model.config, stages)
        check_paths(schedule, stages)
        return PipelineRuntime(
            schedule=schedule,
            rank=self.rank,
            stages=stages,
            model=model,
            transport=self.transport(schedule),
            watch=self.watch,
            loss=loss,
            batch_tokens=batch_tokens,
            device=self.device,
            dtype=model.stream_dtype,
            shared=self.shared(schedule, stages, model, () if passes is None else passes.own_modules),
            passes=passes,
            timeout_seconds=self.timeout_seconds,
            backwards=backwards,
        )

    @cached_property
    def clock_offset(self) -> float:
        """Seconds that this rank's clock is ahead of the first one's. All ranks ask for it at the same point."""
        return clock_offset(self.rank, self.members, self.group)

    def timeline(self, schedule: Schedule, result: StepResult) -> Timeline:
        """The measured timeline of a step, at every rank: all must call this, with their own results."""
        notes: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(notes, (result.spans, self.clock_offset), group=self.group)
        mine = [notes[member] for member in self.members]
        return timeline(schedule, [spans for spans, _ in mine], [offset for _, offset in mine])

    def close(self) -> None:
        """Give the groups back."""
        for group in (self.group, *self._groups.values()):
            if group != dist.GroupMember.NON_GROUP_MEMBER:
                dist.destroy_process_group(group)
        self._groups.clear()


def cells_by_stage(cells: Sequence[str], cut: Sequence[int]) -> tuple[Cells, ...]:
    """Names of contiguous cells, so many in each stage."""
    ends = [sum(cut[: i + 1]) for i in range(len(cut))]
    return tuple(tuple(cells[end - n : end]) for end, n in zip(ends, cut, strict=True))
