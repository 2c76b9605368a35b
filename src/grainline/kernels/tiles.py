"""One expert layer, tile by tile, as a list of tasks says: on worker threads, with rows that come while others compute.

The list is a `schedule.overlap.TilePlan`; this room knows what it reads of it (`TileWork`). Peers are played: their
rows are copied in by a thread of their own, when the plan's messages bring them, and until then aren't there.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.kernels.tile_threads import Board, Ran, run_tasks

Span = tuple[int, int]
POOLS = {"dispatch": 1, "return": 2, "join": 3}
"""Threads beside the workers, which are pool 0."""


class TileWork(Protocol):
    """A task, as it is read here."""

    @property
    def what(self) -> str:
        """dispatch, up, join, down, return or combine."""

    @property
    def needs(self) -> Sequence[int]:
        """Tasks that end before it begins."""

    @property
    def expert(self) -> int: ...
    @property
    def m(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def rows(self) -> Span: ...
    @property
    def columns(self) -> Span: ...
    @property
    def source(self) -> int: ...


@dataclass(frozen=True)
class Peers:
    """Other ranks, played: a link that all share, and sources whose rows come no earlier than so many seconds."""

    bytes_per_second: float = math.inf
    late_seconds: tuple[float, ...] = ()  # by source; infinite: never

    def earliest(self, source: int) -> float:
        """Seconds from the start."""
        return self.late_seconds[source] if source < len(self.late_seconds) else 0.0


@dataclass(frozen=True)
class Rows:
    """Packed rows: whose they are. `entry_N` is each row's place in the caller's lists; `piece_N`'s come together."""

    entry_N: Tensor
    source_N: Tensor
    arrival_N: Tensor  # the dispatch task that brings each


class ExpertTiles:
    """The layer's buffers, and what each kind of task does to them. Rows that haven't come are NaN."""

    def __init__(
        self,
        tasks: Sequence[TileWork],
        rank: int,
        rows: Rows,
        x_TD: Tensor,
        w13_E2FD: Tensor,
        w2_EDF: Tensor,
        score_N: Tensor,
        unit_N: Tensor,
    ) -> None:
        self.tasks, self.rank, self.rows = tasks, rank, rows
        self.x_TD, self.w13_E2FD, self.w2_EDF = x_TD, w13_E2FD, w2_EDF
        self.unit_N = unit_N[rows.entry_N]
        self.score_N = score_N[rows.entry_N].to(x_TD.dtype)
        n, D, hidden = len(rows.entry_N), x_TD.shape[1], w2_EDF.shape[2]
        self.in_ND = x_TD.new_full((n, D), math.nan)
        self.act_NF = x_TD.new_full((n, hidden), math.nan)
        self.y_ND = x_TD.new_full((n, D), math.nan)
        self.back_ND = x_TD.new_full((n, D), math.nan)
        self.out_ND = x_TD.new_empty(n, D)  # in the caller's order, for sums in it
        self.remote_N = rows.source_N != rank
        self.link = threading.Lock()
        self.awaited: dict[int, int] = {}  # dispatch → the source that it waits for, or waited for last
        self.arriving = {
            i: torch.nonzero(rows.arrival_N == i).flatten() for i, task in enumerate(tasks) if task.what == "dispatch"
        }

    def do(self, task: int, board: Board, peers: Peers) -> None:
        """Carry out a task."""
        one = self.tasks[task]
        rows, columns = slice(*one.rows), slice(*one.columns)
        if one.what == "up":
            w_2FD = self.w13_E2FD[one.expert, :, columns]
            x_ND = self.in_ND[rows]
            self.act_NF[rows, columns] = F.silu(x_ND @ w_2FD[0].T) * (x_ND @ w_2FD[1].T)
        elif one.what == "down":
            torch.mm(self.act_NF[rows], self.w2_EDF[one.expert, columns].T, out=self.y_ND[rows, columns])
        elif one.what == "combine":
            found = self.y_ND if one.source == self.rank else self.back_ND
            self.out_ND[self.rows.entry_N[rows], columns] = found[rows, columns] * self.score_N[rows].unsqueeze(1)
        elif one.what == "dispatch":
            self._arrive(task, board, peers)
        elif one.what == "return":
            self._cross(int(self.remote_N[rows].sum()) * (one.columns[1] - one.columns[0]), board, peers)
            self.back_ND[rows, columns] = self.y_ND[rows, columns]

    def _arrive(self, task: int, board: Board, peers: Peers) -> None:
        """The rows of a dispatch, once all its sources have sent theirs, and this rank's own at once."""
        rows_N = self.arriving[task]
        remote_N = rows_N[self.remote_N[rows_N]]
        for source in self.rows.source_N[remote_N].unique().tolist():
            self.awaited[task] = source
            board.sleep(peers.earliest(source) - board.now())
        self._cross(len(remote_N) * self.x_TD.shape[1], board, peers)
        self.in_ND[rows_N] = self.x_TD[self.unit_N[rows_N]]

    def _cross(self, elements: int, board: Board, peers: Peers) -> None:
        """The time that they take over the link, which one message has at a time."""
        with self.link:
            board.sleep(elements * self.x_TD.element_size() / peers.bytes_per_second)

    def combined(self, tokens: int) -> Tensor:
        """Σ over each token's rows, in the order of the caller's lists → [T, D]."""
        unit_N = torch.empty_like(self.unit_N)
        unit_N[self.rows.entry_N] = self.unit_N
        return self.x_TD.new_zeros(tokens, self.out_ND.shape[1]).index_add_(0, unit_N, self.out_ND)

    def waits(self, board: Board) -> str:
        """Which tile waits, and for whom."""
        stuck = next(i for i, done in enumerate(board.is_done) if not done)
        for i, task in enumerate(self.tasks):
            if task.what == "up" and not board.is_done[i]:
                for dispatch in self._undone_dispatches(i, board):
                    source = self.awaited.get(dispatch, self.tasks[dispatch].source)
                    tile = f"tile (expert {task.expert}, m {task.m}, n {task.n})"
                    return f"no rows of source {source} have come; {tile} waits for them."
        task = self.tasks[stuck]
        return f"{task.what} (expert {task.expert}, m {task.m}, n {task.n}) hasn't ended."

    def _undone_dispatches(self, task: int, board: Board) -> list[int]:
        """That it waits for, also through joins."""
        undone = [need for need in self.tasks[task].needs if not board.is_done[need]]
        found = [need for need in undone if self.tasks[need].what == "dispatch"]
        joins = [need for need in undone if self.tasks[need].what == "join"]
        return found + [each for join in joins for each in self._undone_dispatches(join, board)]


def run_tiles(tiles: ExpertTiles, in_order: bool, workers: int, peers: Peers, patience_seconds: float) -> Ran:
    """All tasks: tiles on `workers` threads of one core each, messages in and out on two more.

    Raises GrainlineError that names source, expert and tile once nothing has come forward for `patience_seconds`.
    """
    if workers < 1:
        raise GrainlineError(f"{workers} workers compute no tiles: 1 or more, please.")
    pools = [POOLS.get(task.what, 0) for task in tiles.tasks]
    board = Board([task.needs for task in tiles.tasks], pools, (workers, 1, 1, 1), in_order)
    threads = torch.get_num_threads()
    try:
        with torch.no_grad():
            return run_tasks(board, lambda task: tiles.do(task, board, peers), tiles.waits, patience_seconds, _alone)
    finally:
        torch.set_num_threads(threads)


def _alone() -> None:
    """One core for each worker: grad mode and OpenMP's number of threads are a thread's own."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
