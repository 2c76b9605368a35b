"""Threads that carry out a list of dependent tasks: who takes which, who waits, and who says that nothing goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from grainline.documents import GrainlineError


class Stopped(Exception):
    """Raised in a thread that waits for something when the run has been given up."""


@dataclass
class Ran:
    """By task: the thread that did it, and when, in seconds from the start. `made` and `scheduled` count tasks too."""

    thread: list[int]
    start: list[float]
    end: list[float]
    made: int = 0  # that could begin
    scheduled: int = 0  # that a thread has taken
    done: int = 0


@dataclass
class _Pool:
    """Threads that share a list: its tasks in order, the next one, and those that can begin."""

    size: int
    tasks: list[int] = field(default_factory=list)
    taken: int = 0
    ready: deque[int] = field(default_factory=deque)


class Board:
    """What is done and what waits; one lock for all of it, because tasks are long beside it."""

    def __init__(self, needs: Sequence[Sequence[int]], pools: Sequence[int], sizes: Sequence[int], in_order: bool):
        """Task i waits for the tasks needs[i] and is done by a thread of pool pools[i], of sizes[pool] threads.

        In order: a thread takes the next task of its pool's list, and waits at it until it can begin; else it takes
        what has been able to begin longest.
        """
        n = len(needs)
        self.pools = [_Pool(size) for size in sizes]
        self.of = list(pools)
        for i, pool in enumerate(pools):
            self.pools[pool].tasks.append(i)
        self.in_order = in_order
        self.left = [len(each) for each in needs]
        self.needed_by: list[list[int]] = [[] for _ in range(n)]
        for i, each in enumerate(needs):
            for need in each:
                self.needed_by[need].append(i)
        self.is_done = [False] * n
        self.ran = Ran([-1] * n, [0.0] * n, [0.0] * n)
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self.changed = threading.Condition()
        self.began = time.perf_counter()
        for i in range(n):
            if not self.left[i]:
                self._make(i)

    def now(self) -> float:
        """Seconds from the start."""
        return time.perf_counter() - self.began

    def sleep(self, seconds: float) -> None:
        """Of a thread that plays somebody else; Stopped if the run is given up meanwhile."""
        if seconds > 0 and self.stop.wait(None if seconds == float("inf") else seconds):
            raise Stopped

    def take(self, pool: _Pool) -> int | None:
        """The next task of a thread, once it can begin; None where none is left. Raises Stopped."""
        with self.changed:
            if pool.taken == len(pool.tasks):
                return None
            at = pool.taken
            pool.taken += 1
            self.changed.wait_for(lambda: self.stop.is_set() or self._can_begin(pool, at))
            if self.stop.is_set():
                raise Stopped
            self.ran.scheduled += 1
            return pool.tasks[at] if self.in_order else pool.ready.popleft()

    def _can_begin(self, pool: _Pool, at: int) -> bool:
        return not self.left[pool.tasks[at]] if self.in_order else bool(pool.ready)

    def finish(self, task: int) -> None:
        """A task is done: what waited for it comes closer."""
        with self.changed:
            self.is_done[task] = True
            self.ran.done += 1
            for other in self.needed_by[task]:
                self.left[other] -= 1
                if not self.left[other]:
                    self._make(other)
            self.changed.notify_all()

    def _make(self, task: int) -> None:
        self.ran.made += 1
        self.pools[self.of[task]].ready.append(task)

    def give_up(self, error: BaseException) -> None:
        """The first error is kept; all threads end."""
        with self.changed:
            self.error = self.error or error
            self.stop.set()
            self.changed.notify_all()


def run_tasks(
    board: Board,
    do: Callable[[int], None],
    waits: Callable[[Board], str],
    patience_seconds: float,
    prepare: Callable[[], None] = lambda: None,
) -> Ran:
    """Do all tasks of a board, each by `do`, on new threads; `prepare` runs first in each of them.

    Raises what `do` raised, or GrainlineError with `waits(board)` once no task has ended for `patience_seconds`.
    """
    threads = [
        threading.Thread(target=_work, args=(board, pool, do, prepare, number), daemon=True)
        for number, pool in enumerate(pool for pool in board.pools for _ in range(pool.size))
    ]
    for thread in threads:
        thread.start()
    total = len(board.of)
    with board.changed:
        while board.ran.done < total and board.error is None:
            before = board.ran.done
            board.changed.wait_for(lambda: board.ran.done > before or board.error is not None, patience_seconds)  # noqa: B023
            if board.ran.done == before and board.error is None:
                board.error = GrainlineError(f"nothing has come forward for {patience_seconds:g} s: {waits(board)}")
        if board.error is not None:
            board.stop.set()
            board.changed.notify_all()
    for thread in threads:
        thread.join()
    if board.error is not None:
        raise board.error
    return board.ran


def _work(board: Board, pool: _Pool, do: Callable[[int], None], prepare: Callable[[], None], number: int) -> None:
    try:
        prepare()
        while (task := board.take(pool)) is not None:
            board.ran.thread[task], board.ran.start[task] = number, board.now()
            do(task)
            board.ran.end[task] = board.now()
            board.finish(task)
    except Stopped:
        pass
    except BaseException as error:
        board.give_up(error)
