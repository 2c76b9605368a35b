"""GPipe: all forwards, then all backwards in reverse order (arXiv 1811.06965, section 2)."""

from __future__ import annotations

from grainline.schedule.actions import Action, Kind
from grainline.schedule.schedule import Schedule, straight_paths


def gpipe(ranks: int, microbatches: int) -> Schedule:
    """Bare compute of GPipe: one stage per rank. The bubble is (P − 1)/(M + P − 1) of the step."""
    actions = [
        [
            *(Action(Kind.F, rank, m) for m in range(microbatches)),
            *(Action(Kind.B, rank, m) for m in reversed(range(microbatches))),
        ]
        for rank in range(ranks)
    ]
    return Schedule("gpipe", straight_paths(range(ranks), microbatches), tuple(map(tuple, actions)))
