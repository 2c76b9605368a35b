"""Cuts: how many cells each stage holds, so that unlike devices are busy alike and each stage fits where it lives.

The objective is Ling 2.0's (arXiv 2510.22115, section 5): first the most that any rank has to do for a micro-batch,
then the largest stage, because a stage is what others wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from grainline.schedule.cells import Cell
from grainline.schedule.cut_search import Problem, best_of_moves, exact, minimax, one_stage_each
from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.simulator.graph import Floats

StageBytes = Callable[[int, int, int], float]
"""(stage, its first cell, the cell after its last) → bytes that the stage takes on its rank."""


class DoesNotFit(ScheduleError):
    """No cut fits into memory: `cells` is the one that comes nearest, and `rank` the one that lacks most in it."""

    def __init__(
        self, cells: tuple[int, ...], rank: int, stages: str, need_bytes: float, capacity_bytes: float
    ) -> None:
        self.cells, self.rank, self.need_bytes, self.capacity_bytes = cells, rank, need_bytes, capacity_bytes
        super().__init__(
            f"no cut fits into memory: in the one that comes nearest, {list(cells)}, rank {rank} with {stages} needs "
            f"{need_bytes:.4g} bytes, and has {capacity_bytes:.4g}"
        )


@dataclass(frozen=True)
class Cut:
    """`cells[s]` are how many consecutive cells stage s holds; what follows is what that comes to."""

    cells: tuple[int, ...]
    stage_seconds: tuple[float, ...]
    rank_seconds: tuple[float, ...]
    rank_bytes: tuple[float, ...]
    is_optimal: bool  # proven; else the best that was found

    @property
    def imbalance(self) -> float:
        """The busiest rank over the mean; 1 is even."""
        mean = sum(self.rank_seconds) / len(self.rank_seconds)
        return max(self.rank_seconds) / mean if mean else 1.0


def cut(
    seconds: Sequence[Sequence[float]],
    placement: Sequence[int],
    *,
    stage_bytes: StageBytes | None = None,
    capacity_bytes: Sequence[float] | None = None,
) -> Cut:
    """Cut a list of cells into `len(placement)` stages of consecutive cells, none included.

    `seconds[r][c]` is what cell c takes rank r for a micro-batch, all passes together, so that ranks may be unlike in
    any way. `placement[s]` is the rank of stage s. `stage_bytes` and `capacity_bytes[r]` bound what a rank's stages
    take together.

    Where each rank holds one stage, no cut has a smaller largest stage, and among those that have the same no smaller
    second largest, and so on: found by dynamic programming. Where ranks hold several, (busiest rank, largest stage) is
    as small as can be where `is_optimal` says so, and else the best that local moves reach.

    Raises ScheduleError where there are more ranks than cells, and DoesNotFit where no cut fits.
    """
    cells = len(seconds[0]) if seconds else 0
    used = sorted(set(placement))
    if not used or used[-1] >= len(seconds) or any(len(row) != cells for row in seconds):
        raise ScheduleError(f"seconds of {len(seconds)} ranks, all of as many cells, for stages on ranks {used}")
    if len(used) > cells:
        raise ScheduleError(f"{len(used)} ranks for {cells} cells: some would have nothing to do")
    problem = _problem(seconds, placement, cells, stage_bytes, capacity_bytes)
    if len(used) == len(placement):
        found, proven = one_stage_each(problem), True
    else:
        found, proven = exact(problem, best_of_moves(problem))
    if found is None or problem.excess_bytes(found) > 0:
        raise _does_not_fit(problem, found)
    return _described(problem, found, proven)


def described(
    sizes: Sequence[int],
    seconds: Sequence[Sequence[float]],
    placement: Sequence[int],
    stage_bytes: StageBytes | None = None,
) -> Cut:
    """What a given cut comes to; ScheduleError if it isn't one of these cells into these stages."""
    cells = len(seconds[0])
    if len(sizes) != len(placement):
        raise ScheduleError(f"a cut into {len(sizes)} stages, where the schedule has {len(placement)}")
    if sum(sizes) != cells or min(sizes) < 0:
        raise ScheduleError(f"a cut of {sum(sizes)} cells {list(sizes)}, where the model has {cells}")
    return _described(_problem(seconds, placement, cells, stage_bytes, None), tuple(sizes), False)


def equal_cut(cells: Sequence[Cell], stages: int) -> tuple[int, ...]:
    """As many blocks in each stage; the embedding goes to the first, MTP and head to the last, as Megatron has it.

    Raises ScheduleError where the blocks can't be dealt evenly.
    """
    blocks = sum(cell.kind in ("dense", "moe") for cell in cells)
    if blocks % stages:
        divisors = ", ".join(str(n) for n in range(1, blocks + 1) if blocks % n == 0)
        raise ScheduleError(f"{blocks} blocks can't be dealt evenly to {stages} stages, but to any of {divisors}")
    sizes = [blocks // stages] * stages
    first = next(i for i, cell in enumerate(cells) if cell.kind in ("dense", "moe"))
    sizes[0] += first
    sizes[-1] += len(cells) - blocks - first
    return tuple(sizes)


def _problem(
    seconds: Sequence[Sequence[float]],
    placement: Sequence[int],
    cells: int,
    stage_bytes: StageBytes | None,
    capacity_bytes: Sequence[float] | None,
) -> Problem:
    stages, shape = len(placement), (len(placement), cells + 1, cells + 1)
    by_rank = {rank: _sums(seconds[rank]) for rank in set(placement)}
    held = np.zeros(shape)
    if stage_bytes is not None:
        for stage in range(stages):
            for first in range(cells + 1):
                for end in range(first, cells + 1):
                    held[stage, first, end] = stage_bytes(stage, first, end)
    return Problem(
        placement=np.asarray(placement),
        seconds=np.stack([by_rank[rank] for rank in placement]),
        bytes=held,
        capacity=np.full(len(seconds), np.inf) if capacity_bytes is None else np.asarray(capacity_bytes, dtype=float),
    )


def _sums(values: Sequence[float]) -> Floats:
    """[i, j]: sum of values i … j − 1; infinity where j < i."""
    n = len(values)
    table = np.full((n + 1, n + 1), np.inf)
    for i in range(n + 1):
        table[i, i] = 0.0
        table[i, i + 1 :] = np.cumsum(values[i:])
    return table


def _described(problem: Problem, sizes: tuple[int, ...], proven: bool) -> Cut:
    seconds, held = problem.of_stages(sizes)
    return Cut(
        cells=tuple(sizes),
        stage_seconds=tuple(map(float, seconds)),
        rank_seconds=tuple(map(float, problem.of_ranks(seconds))),
        rank_bytes=tuple(map(float, problem.of_ranks(held))),
        is_optimal=proven,
    )


def _does_not_fit(problem: Problem, found: tuple[int, ...] | None) -> DoesNotFit:
    if found is None:
        found = minimax(problem.bytes - problem.capacity[problem.placement, None, None] + problem.backwards)
    need = problem.of_ranks(problem.of_stages(found)[1])
    rank = int(np.argmax(need - problem.capacity))
    ends = np.cumsum(found)
    held = [
        f"stage {s} (cells {end - n} to {end - 1})"
        for s, (n, end) in enumerate(zip(found, ends, strict=True))
        if n and problem.placement[s] == rank
    ]
    return DoesNotFit(found, rank, ", ".join(held), float(need[rank]), float(problem.capacity[rank]))
