"""A pipeline schedule: which rank holds which stage, the path of every micro-batch, and each rank's list of actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from grainline.schedule.actions import Action


class ScheduleError(ValueError):
    """A schedule that can't be carried out; the message names ranks and actions."""


class Hop(NamedTuple):
    """A stage that a micro-batch visits, and the rank where."""

    stage: int
    rank: int


Path = tuple[Hop, ...]


@dataclass(frozen=True)
class Schedule:
    """Everything about a step's order that doesn't depend on what anything costs.

    `paths[m]` are the hops of micro-batch m, first to last: usually all stages in order, but a path may leave stages
    out, visit them in another order, or choose among several ranks that hold a stage. Nothing assumes that the next
    stage is on the next rank. `actions[r]` is the list of rank r.
    """

    name: str
    paths: tuple[Path, ...]
    actions: tuple[tuple[Action, ...], ...]

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.actions)

    @property
    def microbatches(self) -> int:
        """In a step."""
        return len(self.paths)

    @property
    def stages(self) -> int:
        """One more than the highest stage on any path."""
        return 1 + max(hop.stage for path in self.paths for hop in path)

    def holders(self, stage: int) -> tuple[int, ...]:
        """Ranks at which some micro-batch visits `stage`, ascending."""
        return tuple(sorted({hop.rank for path in self.paths for hop in path if hop.stage == stage}))

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """Stages that some micro-batch visits at `rank`, ascending."""
        return tuple(sorted({hop.stage for path in self.paths for hop in path if hop.rank == rank}))

    def with_actions(self, actions: Sequence[Sequence[Action]], name: str | None = None) -> Schedule:
        """The same paths with other lists."""
        return replace(self, actions=tuple(tuple(a) for a in actions), name=name or self.name)


def straight_paths(placement: Sequence[int], microbatches: int) -> tuple[Path, ...]:
    """Every micro-batch visits all stages in order; `placement[s]` is the rank of stage s."""
    path = tuple(Hop(stage, rank) for stage, rank in enumerate(placement))
    return (path,) * microbatches
