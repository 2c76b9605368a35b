"""A placement of experts, what it is decided for, and the seam between the two."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from grainline.documents import GrainlineError
from grainline.documents.expert_placement import Holders
from grainline.plan.placement.ranks import ExpertRanks
from grainline.plan.placement.statistics import Floats, Statistics

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Options:
    """How to look for a placement. Each member of the seam takes what concerns it."""

    seed: int = 0
    restarts: int = 8  # of affinity's sweeps
    seconds: float = 60.0  # for integer programs, all together
    gap: float = 0.005  # of integer programs: affinity's of its optimum, MoETuner's of a layer's whole load
    affinity: Literal["sweep", "ilp", "bipartition"] = "sweep"
    staged: bool = True  # affinity: nodes first, then the ranks in each
    sizes: Literal["free", "equal"] = "free"  # MoETuner: experts of a rank in one layer
    balance: Literal["mean", "max"] = "mean"  # MoETuner: deviation from the mean load, or the greatest load
    chain: Literal["auto", "dp", "milp", "local"] = "auto"  # MoETuner's second program
    replicas: int = 0  # load-balanced: slots of a rank in each layer beyond its share, for copies


@dataclass(frozen=True)
class Problem:
    """Where to place the experts of these statistics."""

    statistics: Statistics
    ranks: ExpertRanks
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        experts, ranks = self.statistics.experts, self.ranks.count
        if ranks > experts:
            raise GrainlineError(
                f"{ranks} expert ranks for {experts} experts: some would have none. Take at most {experts} ranks."
            )

    def quota(self, method: str) -> int:
        """E / G; raises GrainlineError where it isn't whole."""
        experts, ranks = self.statistics.experts, self.ranks.count
        if experts % ranks:
            even = ", ".join(str(n) for n in range(2, experts + 1) if experts % n == 0)
            raise GrainlineError(
                f"{method} gives every rank as many experts, and {experts} don't divide among {ranks} ranks: take "
                f"{even} ranks, or another method."
            )
        return experts // ranks


@dataclass(frozen=True)
class Placement:
    """holders: of each bank and expert, the ranks that have it. note: how good the solver knows it to be."""

    holders: tuple[Holders, ...]
    banks: tuple[int, ...]  # of each layer
    ranks: int
    note: str = ""
    gap: float | None = None  # (objective − bound) / objective, where a bound is known

    @classmethod
    def of(cls, rank_BE: Ints, problem: Problem, note: str = "", gap: float | None = None) -> Self:
        """With one rank for each expert."""
        holders = tuple(tuple((int(rank),) for rank in row) for row in rank_BE)
        return cls(holders, problem.statistics.banks, problem.ranks.count, note, gap)

    @cached_property
    def share_BEG(self) -> Floats:
        """1/r on each of the r ranks that have an expert."""
        found = np.zeros((len(self.holders), len(self.holders[0]), self.ranks))
        for bank, row in enumerate(self.holders):
            for expert, ranks in enumerate(row):
                found[bank, expert, list(ranks)] = 1 / len(ranks)
        return found

    @property
    def rank_BE(self) -> Ints:
        """The rank of each expert; raises ValueError where one has several."""
        if any(len(ranks) > 1 for row in self.holders for ranks in row):
            raise ValueError("some experts have copies")
        return np.array([[ranks[0] for ranks in row] for row in self.holders], dtype=np.intp)

    @cached_property
    def slots_BG(self) -> Ints:
        """Experts that each rank holds of each bank."""
        return (self.share_BEG > 0).sum(1)

    def order(self) -> tuple[Ints, ...]:
        """Of each bank, its experts by rank and then by number: where contiguous ranks have them if sizes are equal.

        Raises GrainlineError where an expert has copies, which no permutation says.
        """
        try:
            return tuple(np.argsort(row, kind="stable") for row in self.rank_BE)
        except ValueError:
            raise GrainlineError("experts with copies are no permutation: place them without replicas.") from None


class ExpertPlacement(Protocol):
    """Statistics and ranks → experts on ranks."""

    def __call__(self, problem: Problem) -> Placement:
        """May raise GrainlineError where the problem isn't for it."""
        ...
