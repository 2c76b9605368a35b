"""A layer as a list of tile tasks: what each computes, what it waits for, and how workers take them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple

from grainline.schedule.overlap.layer import ExpertLayer, TileShape

Span = tuple[int, int]
"""From, up to."""


class What(StrEnum):
    """What a task does."""

    DISPATCH = "dispatch"  # rows come in from other ranks
    UP = "up"  # a tile of the first product, with its activation
    JOIN = "join"  # nothing: ends once all that it waits for has; costs the launches that it stands for
    DOWN = "down"  # a tile of the second product
    RETURN = "return"  # results go back to where their rows came from
    COMBINE = "combine"  # results that have come back, times their scores, to their tokens


ON_LINK = frozenset({What.DISPATCH, What.RETURN})
TILES = frozenset({What.UP, What.DOWN, What.COMBINE})


class Piece(NamedTuple):
    """Consecutive packed rows: rows first … first + rows of those that `source` has for `expert`."""

    expert: int
    source: int
    first: int
    rows: int
    arrival: int  # the DISPATCH task that brings them


@dataclass(frozen=True, slots=True)
class TileTask:
    """One entry of the list. `rows` are packed ones; what means nothing is −1 or empty."""

    what: What
    needs: tuple[int, ...] = ()
    expert: int = -1
    m: int = -1  # tile of rows, in its expert
    n: int = -1  # tile of columns
    rows: Span = (0, 0)
    columns: Span = (0, 0)
    source: int = -1  # the latest that a tile waits for; of a dispatch, where from
    stage: int = -1  # of arrival; of what goes back, its group
    launches: int = 0

    def __str__(self) -> str:
        named = [(name, getattr(self, name)) for name in ("expert", "m", "n", "source", "stage")]
        told = ", ".join(f"{name} {value}" for name, value in named if value >= 0)
        return f"{self.what.value} ({told})" if told else self.what.value


Claims = Literal["in order", "when ready"]
"""Whether an idle worker takes the next task of the list and waits at it, or any that can begin."""


@dataclass(frozen=True)
class TilePlan:
    """A layer's tasks, in the order of the list; each comes after all that it waits for.

    `pieces` says how rows are packed. The last `comm_workers` workers take part in no DOWN tile: they combine and send.
    """

    name: str
    layer: ExpertLayer
    shape: TileShape
    pieces: tuple[Piece, ...]
    tasks: tuple[TileTask, ...]
    claims: Claims
    comm_workers: int = 0

    def __len__(self) -> int:
        return len(self.tasks)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each piece begins among packed rows, and where the last ends."""
        return (0, *accumulate(piece.rows for piece in self.pieces))

    def pieces_of(self, rows: Span) -> tuple[Piece, ...]:
        """Those that some of these rows are in."""
        if rows[0] >= rows[1]:
            return ()
        first, last = bisect_right(self.offsets, rows[0]) - 1, bisect_right(self.offsets, rows[1] - 1)
        return tuple(piece for piece in self.pieces[first:last] if piece.rows)

    def remote_rows(self, rows: Span) -> int:
        """How many of them are other ranks'."""
        return self._remote_before(rows[1]) - self._remote_before(rows[0])

    def _remote_before(self, row: int) -> int:
        at = min(bisect_right(self.offsets, row) - 1, len(self.pieces))
        inside = 0
        if at < len(self.pieces) and self.pieces[at].source != self.layer.rank:
            inside = row - self.offsets[at]
        return self._remote[at] + inside

    @cached_property
    def _remote(self) -> tuple[int, ...]:
        return (0, *accumulate(piece.rows * (piece.source != self.layer.rank) for piece in self.pieces))

    @cached_property
    def _arriving(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for piece in self.pieces:
            if piece.source != self.layer.rank:
                found[piece.arrival] = found.get(piece.arrival, 0) + piece.rows
        return found

    def bytes_of(self, task: int) -> int:
        """That a DISPATCH or RETURN moves over the link; 0 for others."""
        one, size = self.tasks[task], self.layer.element_bytes
        if one.what is What.DISPATCH:
            return self._arriving.get(task, 0) * self.layer.width * size
        if one.what is What.RETURN:
            return self.remote_rows(one.rows) * (one.columns[1] - one.columns[0]) * size
        return 0


class Listing:
    """A list that is being written."""

    def __init__(self) -> None:
        self.tasks: list[TileTask] = []

    def add(self, task: TileTask) -> int:
        """Its number."""
        self.tasks.append(task)
        return len(self.tasks) - 1


def cut(span: Span, size: int) -> Iterator[tuple[int, Span]]:
    """(number, span) of tiles of at most `size`."""
    for i, begin in enumerate(range(span[0], span[1], size)):
        yield i, (begin, min(begin + size, span[1]))


def spans_of_experts(pieces: Sequence[Piece], begin: int = 0) -> Iterator[tuple[int, Span]]:
    """(expert, its packed rows) of pieces that come expert by expert from row `begin` on, for experts with rows."""
    end = begin
    for i, piece in enumerate(pieces):
        end += piece.rows
        if i + 1 == len(pieces) or pieces[i + 1].expert != piece.expert:
            if end > begin:
                yield piece.expert, (begin, end)
            begin = end
