"""Consecutive cells for stages that are unlike: quick, for thousands of strategies; `schedule.cut` is exact."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


def even(cells: int, stages: int) -> tuple[int, ...]:
    """As many blocks for each stage as for the others, as programs have that know no other cuts.

    The first cell and the last go with the first stage and the last.
    """
    blocks = cells - 2
    sizes = [blocks // stages + (s < blocks % stages) for s in range(stages)]
    sizes[0] += 1
    sizes[-1] += 1
    return tuple(sizes)


@dataclass(frozen=True)
class Room:
    """What bounds stages besides time: `sums[s][c]` are bytes of the first c cells on stage s, `most[s]` its room."""

    sums: Sequence[Sequence[float]]
    most: Sequence[float]

    def fits(self, stage: int, start: int, end: int) -> bool:
        """Whether these cells do."""
        return self.sums[stage][end] - self.sums[stage][start] <= self.most[stage]


def partition(
    seconds: Sequence[Sequence[float]], kinds: Sequence[int], room: Room | None = None
) -> tuple[int, ...] | None:
    """Cells of each stage so that the slowest takes as little as can be, to one in a thousand.

    `seconds[k]` are of all cells on a stage of kind k, `kinds` the kinds of the stages. By bisection over the slowest
    stage's time: with a limit, filling each stage as far as it goes is best (with `room`: where each stage
    has room for any one cell). None where no filling has room.
    """
    cells, stages = len(seconds[0]), len(kinds)
    sums = [list(accumulate(row, initial=0.0)) for row in seconds]
    # Perfectly level stages of the fastest kind at each cell are a bound from below.
    low = max(max(map(min, zip(*seconds, strict=True))), min(s[-1] for s in sums) / stages)
    high = max(s[-1] for s in sums)
    # A stage overshoots a level share by less than a cell: a limit that most often suffices.
    first = max(s[-1] for s in sums) / stages + max(map(max, seconds))
    found = _filled(sums, kinds, first, cells, room)
    if found is not None:
        high = min(high, first)
    else:
        found = _filled(sums, kinds, high, cells, room)
    if found is None:
        return None
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        tried = _filled(sums, kinds, middle, cells, room)
        if tried is None:
            low = middle
        else:
            found, high = tried, middle
    return _levelled(sums, kinds, found, room)


def _filled(
    sums: Sequence[Sequence[float]], kinds: Sequence[int], limit: float, cells: int, room: Room | None
) -> list[int] | None:
    """Where each stage begins and the last ends, none over the limit; None where cells are left over."""
    at, limit, stages = 0, limit * (1 + 1e-12), len(kinds)
    bounds = [0]
    for stage, kind in enumerate(kinds):
        row, last = sums[kind], cells - (stages - stage - 1)  # each later stage gets a cell
        end = bisect_right(row, row[at] + limit, at + 1, last + 1) - 1
        while room is not None and end > at and not room.fits(stage, at, end):
            end -= 1
        if end == at:
            return None
        at = end
        bounds.append(at)
    return bounds if at == cells else None


def _levelled(
    sums: Sequence[Sequence[float]], kinds: Sequence[int], bounds: list[int], room: Room | None
) -> tuple[int, ...]:
    """The last stages of a filling are short: move cells back where that makes the larger of two neighbours smaller."""
    for s in range(len(kinds) - 1, 0, -1):
        before, after = sums[kinds[s - 1]], sums[kinds[s]]
        start, middle, end = bounds[s - 1], bounds[s], bounds[s + 1]
        worst = max(before[middle] - before[start], after[end] - after[middle])
        while middle - 1 > start:
            moved = max(before[middle - 1] - before[start], after[end] - after[middle - 1])
            if moved >= worst or (room is not None and not room.fits(s, middle - 1, end)):
                break
            middle, worst = middle - 1, moved
        bounds[s] = middle
    return tuple(end - start for start, end in pairwise(bounds))
