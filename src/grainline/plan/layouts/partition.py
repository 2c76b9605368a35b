"""Consecutive cells for stages that are unlike: quick, for thousands of strategies; `schedule.cut` is exact."""

from __future__ import annotations

from collections.abc import Sequence


def partition(seconds: Sequence[Sequence[float]], *, even: bool = False) -> tuple[int, ...]:
    """Cells of each stage so that the slowest takes as little as can be; `seconds[s][c]` is of cell c on stage s.

    By bisection over the slowest stage's time: with a limit, filling each stage as far as it goes is best. `even` gives
    each stage as many blocks as the others, as programs do that know no other cuts; the first cell and the last go
    with the first stage and the last.
    """
    stages, cells = len(seconds), len(seconds[0])
    if even:
        blocks = cells - 2
        sizes = [blocks // stages + (s < blocks % stages) for s in range(stages)]
        sizes[0] += 1
        sizes[-1] += 1
        return tuple(sizes)
    low = max(max(min(row[c] for row in seconds) for c in range(cells)), 0.0)
    high = sum(max(row[c] for row in seconds) for c in range(cells))
    found = _filled(seconds, high)
    for _ in range(40):
        if high - low <= 1e-4 * high:
            break
        middle = (low + high) / 2
        tried = _filled(seconds, middle)
        if tried is None:
            low = middle
        else:
            found, high = tried, middle
    assert found is not None
    return _levelled(seconds, found)


def _filled(seconds: Sequence[Sequence[float]], limit: float) -> list[int] | None:
    """Cells of each stage, none over the limit; None where the last ones are left over."""
    cells, at = len(seconds[0]), 0
    sizes = []
    for stage, row in enumerate(seconds):
        left, start = limit * (1 + 1e-12), at
        most = cells - (len(seconds) - stage - 1)  # each later stage gets a cell
        while at < most and row[at] <= left:
            left -= row[at]
            at += 1
        sizes.append(at - start)
        if at == start:
            return None
    return sizes if at == cells else None


def _levelled(seconds: Sequence[Sequence[float]], sizes: list[int]) -> tuple[int, ...]:
    """The last stages of a filling are short: move cells back where that makes the larger of two neighbours smaller."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    took = [sum(row[starts[s] : starts[s + 1]]) for s, row in enumerate(seconds)]
    for s in range(len(sizes) - 1, 0, -1):
        while sizes[s - 1] > 1:
            cell = starts[s] - 1
            less, more = took[s - 1] - seconds[s - 1][cell], took[s] + seconds[s][cell]
            if max(less, more) >= max(took[s - 1], took[s]):
                break
            took[s - 1], took[s] = less, more
            sizes[s - 1] -= 1
            sizes[s] += 1
            starts[s] = cell
    return tuple(sizes)
