"""Predicted against real, pass by pass and way by way: of a simulated timeline and a measured one."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from grainline.documents import GrainlineError
from grainline.schedule import Kind, Timeline
from grainline.schedule.actions import COMPUTE, SENDS


@dataclass(frozen=True)
class Pass:
    """One kind of pass of one stage on one rank; seconds are medians over micro-batches."""

    rank: int
    stage: int
    kind: Kind
    count: int
    predicted_seconds: float
    real_seconds: float

    @property
    def error(self) -> float:
        """Relative; positive where more was predicted."""
        return self.predicted_seconds / self.real_seconds - 1 if self.real_seconds else 0.0


@dataclass(frozen=True)
class Way:
    """Messages from one rank to another; seconds are medians."""

    sender: int
    receiver: int
    count: int
    predicted_seconds: float
    real_seconds: float


@dataclass(frozen=True)
class Compared:
    """A step."""

    predicted_seconds: float  # of all passes, the update left out
    real_seconds: float
    passes: tuple[Pass, ...]
    ways: tuple[Way, ...]

    @property
    def error(self) -> float:
        """Of the step, relative; positive where more was predicted."""
        return self.predicted_seconds / self.real_seconds - 1

    @property
    def median_error(self) -> float:
        """Of passes, without sign."""
        return statistics.median(abs(p.error) for p in self.passes)


def compare(predicted: Timeline, real: Timeline) -> Compared:
    """Raises GrainlineError where the two aren't of one plan: other ranks, stages or micro-batches."""
    mine, theirs = _passes(predicted), _passes(real)
    if mine.keys() != theirs.keys():
        unlike = sorted({f"{kind.value} of stage {s} on rank {r}" for r, s, kind in mine.keys() ^ theirs.keys()})
        raise GrainlineError(
            f"The run was of another plan: only one of the two has {', '.join(unlike[:3])}"
            f"{', …' if len(unlike) > 3 else ''}. Compare it with the plan in its own folder."
        )
    passes = []
    for key in sorted(mine, key=lambda k: (k[0], k[1], k[2].value)):
        if len(mine[key]) != len(theirs[key]):
            raise GrainlineError(
                f"The run was of another plan: {len(theirs[key])} micro-batches against {len(mine[key])}."
            )
        rank, stage, kind = key
        seconds = statistics.median(mine[key]), statistics.median(theirs[key])
        passes.append(Pass(rank, stage, kind, len(mine[key]), *seconds))
    sent, came = _sends(predicted), _sends(real)
    ways = [
        Way(a, b, len(came[a, b]), statistics.median(sent[a, b]), statistics.median(came[a, b]))
        for a, b in sorted(sent.keys() & came.keys())
    ]
    return Compared(predicted.makespan, real.makespan, tuple(passes), tuple(ways))


def _passes(timeline: Timeline) -> dict[tuple[int, int, Kind], list[float]]:
    found: dict[tuple[int, int, Kind], list[float]] = defaultdict(list)
    seconds = (timeline.end - timeline.start).tolist()
    for action, rank, took in zip(timeline.actions, timeline.rank.tolist(), seconds, strict=True):
        if action.kind in COMPUTE and action.stage >= 0:
            found[rank, action.stage, action.kind].append(took)
    return found


def _sends(timeline: Timeline) -> dict[tuple[int, int], list[float]]:
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    seconds = (timeline.end - timeline.start).tolist()
    for action, rank, took in zip(timeline.actions, timeline.rank.tolist(), seconds, strict=True):
        if action.kind in SENDS:
            found[rank, action.peer].append(took)
    return found
