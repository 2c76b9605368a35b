"""Parameters that several ranks hold: which, by whom, and the sum of their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from grainline.documents import ModelConfig
from grainline.models.part import modules_of
from grainline.parallel.data_parallel import sum_in_buckets
from grainline.parallel.pipeline.boundary import Cells
from grainline.schedule import Schedule

Holders = tuple[int, ...]
"""Pipeline ranks, ascending."""


@dataclass(frozen=True)
class Grid:
    """The world as pipeline ranks × replicas of the pipeline; the pipeline is the slower dimension."""

    ranks: int
    replicas: int = 1

    def world_rank(self, rank: int, replica: int) -> int:
        """Of a pipeline rank in a replica."""
        return rank * self.replicas + replica

    def place(self, world_rank: int) -> tuple[int, int]:
        """(pipeline rank, replica)."""
        return divmod(world_rank, self.replicas)


def module_of(parameter: str) -> str:
    """The module, in the sense of `models.part.modules_of`, that a parameter belongs to."""
    parts = parameter.split(".")
    return ".".join(parts[:2]) if parts[0] in ("blocks", "banks") else parts[0]


def stages_by_module(config: ModelConfig, stages: Sequence[Cells]) -> dict[str, frozenset[int]]:
    """Which stages use each module: several where embedding, head or norm are tied or replicated."""
    found: dict[str, set[int]] = {}
    for stage, cells in enumerate(stages):
        for cell in cells:
            for module in modules_of(config, cell):
                found.setdefault(module, set()).add(stage)
    return {module: frozenset(stages_) for module, stages_ in sorted(found.items())}


def holders_by_module(schedule: Schedule, by_module: Mapping[str, frozenset[int]]) -> dict[str, Holders]:
    """Which pipeline ranks hold each module."""
    return {
        module: tuple(sorted({rank for stage in stages for rank in schedule.holders(stage)}))
        for module, stages in by_module.items()
    }


def holder_groups(
    holders: Iterable[Holders], grid: Grid, timeout: timedelta, backend: str | None = None
) -> dict[Holders, dist.ProcessGroup]:
    """A process group for every set of ranks that must sum gradients, over all replicas.

    All ranks of the world must call this with the same arguments. The groups are of no other use, so that the stream of
    collectives never meets messages of the main one.
    """
    groups = {}
    for ranks in sorted(set(holders)):
        members = [grid.world_rank(rank, replica) for rank in ranks for replica in range(grid.replicas)]
        if len(members) > 1:
            groups[ranks] = dist.new_group(sorted(members), timeout=timeout, backend=backend)
    return groups


@dataclass
class SharedGradients:
    """Sums gradients over all ranks that hold a parameter, so that its copies stay equal."""

    parameters: Mapping[str, nn.Parameter]  # this rank's, by name
    stages: Mapping[str, frozenset[int]]  # by module
    holders: Mapping[str, Holders]
    groups: Mapping[Holders, dist.ProcessGroup]
    rank: int
    done: set[str] = field(default_factory=set)  # modules summed in this step

    def modules(self, within: frozenset[int] | None = None) -> list[str]:
        """This rank's modules that are still to be summed, in one order on all ranks; only those of stages `within`."""
        return [
            module
            for module, ranks in self.holders.items()
            if self.rank in ranks
            and ranks in self.groups
            and module not in self.done
            and (within is None or self.stages[module] <= within)
        ]

    def sum_(self, modules: Sequence[str]) -> None:
        """Sum them, in place."""
        self.done.update(modules)
        by_group: dict[Holders, list[Tensor]] = {}
        for name, parameter in self.parameters.items():
            if module_of(name) in modules:
                if parameter.grad is None:  # no micro-batch came by here
                    parameter.grad = torch.zeros_like(parameter)
                by_group.setdefault(self.holders[module_of(name)], []).append(parameter.grad)
        for ranks in sorted(by_group):
            group = self.groups[ranks]
            sum_in_buckets(by_group[ranks], lambda flat, group=group: dist.all_reduce(flat, group=group))  # type: ignore[misc]

    def owned(self, replica: int) -> list[str]:
        """Names of the parameters that this rank counts for all that hold them."""
        return [name for name in self.parameters if replica == 0 and self.holders[module_of(name)][0] == self.rank]
