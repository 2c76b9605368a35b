"""Whether a list of tile tasks computes the layer, each tile once and none too early.

Waits are followed through everything that comes before a task, so that barriers count as they should.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.overlap.tasks import TilePlan, TileTask, What


def check(plan: TilePlan) -> None:
    """Raises ScheduleError with the first thing that is wrong: which task, and what it lacks."""
    for problem in _problems(plan):
        raise ScheduleError(f"{plan.name}: {problem}")


def check_times(plan: TilePlan, start: Sequence[float], end: Sequence[float], slack_seconds: float = 0.0) -> None:
    """Raises ScheduleError where a task began before one that it waits for had ended; times by task."""
    for i, task in enumerate(plan.tasks):
        for need in task.needs:
            if start[i] < end[need] - slack_seconds:
                raise ScheduleError(f"{plan.name}: {task} began at {start[i]:g} s, before {plan.tasks[need]} had ended")


def _problems(plan: TilePlan) -> Iterator[str]:
    for i, task in enumerate(plan.tasks):
        if any(not 0 <= need < i for need in task.needs):
            yield f"{task} stands before what it waits for"
            return
    yield from _problems_of_rows(plan)
    yield from _problems_of_cover(plan)
    yield from _problems_of_waits(plan)
    if plan.name == "tile":
        yield from _problems_of_order(plan)


def _problems_of_rows(plan: TilePlan) -> Iterator[str]:
    """Each row of each (source, expert) is packed once, whole, and by a dispatch."""
    seen: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for piece in plan.pieces:
        seen.setdefault((piece.source, piece.expert), []).append((piece.first, piece.first + piece.rows))
        if plan.tasks[piece.arrival].what is not What.DISPATCH:
            yield f"rows of source {piece.source} come by {plan.tasks[piece.arrival]}"
    for source, counts in enumerate(plan.layer.rows_WE):
        for expert, count in enumerate(counts):
            at = 0
            for first, last in sorted(seen.get((source, expert), [])):
                if first != at:
                    yield f"rows {at} to {first} of source {source} for expert {expert} are packed twice or never"
                at = last
            if at != count:
                yield f"{at} rows of source {source} for expert {expert} are packed, of {count}"


def _problems_of_cover(plan: TilePlan) -> Iterator[str]:
    """Every (row, column) of both products, of what goes back and of what is combined, once."""
    layer = plan.layer
    expert_of_row = np.repeat([p.expert for p in plan.pieces], [p.rows for p in plan.pieces])
    own = np.repeat([p.source == layer.rank for p in plan.pieces], [p.rows for p in plan.pieces])
    for what, columns in ((What.UP, layer.hidden), (What.DOWN, layer.width), (What.RETURN, layer.width),
                          (What.COMBINE, layer.width)):  # fmt: skip
        times = np.zeros((layer.rows, columns), np.int8)
        for task in plan.tasks:
            if task.what is what:
                times[slice(*task.rows), slice(*task.columns)] += 1
                if what is not What.RETURN and (expert_of_row[slice(*task.rows)] != task.expert).any():
                    yield f"{task} has rows of other experts"
        wrong = times != 1
        if what is What.RETURN:  # own rows needn't go anywhere
            wrong[own] &= times[own] > 1
        for row, column in np.argwhere(wrong)[:1]:
            expert = expert_of_row[row]
            yield f"{what.value} of row {row} (expert {expert}), column {column} is done {times[row, column]} times"


def _problems_of_waits(plan: TilePlan) -> Iterator[str]:
    """Through all that comes before: rows are there, the first product is whole, the second is, it has come back."""
    before: list[int] = []  # of each task, all that ends before it begins, as bits
    of = {what: [(i, task) for i, task in enumerate(plan.tasks) if task.what is what] for what in What}
    for task in plan.tasks:
        bits = 0
        for need in task.needs:
            bits |= before[need] | 1 << need
        before.append(bits)
    ups, downs = _by_row(of[What.UP]), _by_row(of[What.DOWN])
    returns = of[What.RETURN]
    for i, task in of[What.UP]:
        for piece in plan.pieces_of(task.rows):
            if not before[i] >> piece.arrival & 1:
                yield f"{task} doesn't wait for rows of source {piece.source}"
        latest = max((plan.layer.stage(piece.source) for piece in plan.pieces_of(task.rows)), default=-1)
        if task.source >= 0 and plan.layer.stage(task.source) != latest:
            yield f"{task}: its latest source is {plan.layer.arrival[latest]}"
    for i, task in of[What.DOWN]:
        yield from _missing(task, before[i], [j for row in range(*task.rows) for j in ups.get(row, ())], plan)
    for i, task in returns:
        wanted = {j for row in range(*task.rows) for j in downs.get(row, ()) if _meet(plan.tasks[j], task)}
        yield from _missing(task, before[i], wanted, plan)
    for i, task in of[What.COMBINE]:
        wanted = {j for row in range(*task.rows) for j in downs.get(row, ()) if _meet(plan.tasks[j], task)}
        if plan.remote_rows(task.rows):
            wanted |= {j for j, back in returns if _meet(back, task)}
        yield from _missing(task, before[i], wanted, plan)


def _by_row(tasks: list[tuple[int, TileTask]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for i, task in tasks:
        for row in range(*task.rows):
            found.setdefault(row, []).append(i)
    return found


def _meet(a: TileTask, b: TileTask) -> bool:
    return all(x[0] < y[1] and y[0] < x[1] for x, y in ((a.rows, b.rows), (a.columns, b.columns)))


def _missing(task: TileTask, bits: int, wanted: Sequence[int] | set[int], plan: TilePlan) -> Iterator[str]:
    for other in wanted:
        if not bits >> other & 1:
            yield f"{task} doesn't wait for {plan.tasks[other]}"


def _problems_of_order(plan: TilePlan) -> Iterator[str]:
    """Tiles of earlier sources stand before those of later ones; a group's columns before the next group's."""
    for what in (What.UP, What.DOWN):
        stages = [(task.stage, task) for task in plan.tasks if task.what is what]
        for (stage, _), (after, task) in pairwise(stages):
            if after < stage:
                yield f"{task} stands after one of stage {stage}"
