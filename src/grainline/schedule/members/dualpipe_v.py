"""DualPipe-V: two stages per rank in a V, a forward of one beside a backward of the other."""

from __future__ import annotations

from collections import Counter, deque

from grainline.schedule.actions import Action, Kind
from grainline.schedule.members.placement import v_shape
from grainline.schedule.schedule import Schedule, straight_paths


def dualpipe_v(ranks: int, microbatches: int) -> Schedule:
    """Bare compute of DualPipe-V (github.com/deepseek-ai/DualPipe; DualPipe itself: arXiv 2412.19437, section 3.2.1).

    In its steady state every F is followed by a B of the rank's other stage, whose messages it hides. Backwards are
    split near both ends of the step, where W fills gaps. Raises ValueError for fewer than 2P micro-batches.
    """
    if microbatches < 2 * ranks:
        raise ValueError(f"{microbatches} micro-batches for {ranks} ranks: DualPipe-V needs {2 * ranks} or more")
    actions = tuple(_of_rank(rank, ranks, microbatches) for rank in range(ranks))
    return Schedule("dualpipe-v", straight_paths(v_shape(ranks), microbatches), actions)


def _of_rank(rank: int, ranks: int, microbatches: int) -> tuple[Action, ...]:
    down, up = _Stage(rank), _Stage(2 * ranks - 1 - rank)
    behind = ranks - 1 - rank  # ranks after this one, on the way down
    weights: deque[Action] = deque()
    found: list[Action] = []

    def split(stage: _Stage) -> None:
        found.append(stage.next(Kind.I))
        weights.append(Action(Kind.W, found[-1].stage, found[-1].microbatch))

    for _ in range(2 * behind):  # fill the way down
        found.append(down.next(Kind.F))
    for _ in range(rank + 1):  # the first come back up
        found += [down.next(Kind.F), up.next(Kind.F)]
    for _ in range(behind):  # the first backwards, split: those who wait for their gradient wait less
        split(up)
        found += [weights.popleft(), up.next(Kind.F)]
    for _ in range(microbatches - 2 * ranks + rank + 1):  # the steady state
        found += [down.next(Kind.F), up.next(Kind.B), up.next(Kind.F), down.next(Kind.B)]
    for _ in range(behind):  # no more of the way down
        found += [up.next(Kind.B), up.next(Kind.F), down.next(Kind.B)]
    for i in range(2 * (rank + 1)):  # backwards only, the second half split
        stage = down if i % 2 else up
        if i < rank + 1:
            found.append(stage.next(Kind.B))
        else:
            split(stage)
    for _ in range(behind):
        found.append(weights.popleft())
        split(down)
    return (*found, *weights)


class _Stage:
    """Counts the micro-batches that a stage has done."""

    def __init__(self, stage: int) -> None:
        self.stage = stage
        self.done: Counter[bool] = Counter()  # forwards, and backwards of both kinds

    def next(self, kind: Kind) -> Action:
        """`kind` for the micro-batch whose turn it is."""
        microbatch = self.done[kind is Kind.F]
        self.done[kind is Kind.F] += 1
        return Action(kind, self.stage, microbatch)
