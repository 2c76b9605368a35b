"""Breadth-first: several stages per rank, and all micro-batches through one before the next (arXiv 2211.05953)."""

from __future__ import annotations

from grainline.schedule.actions import Action, Kind
from grainline.schedule.members.placement import looped
from grainline.schedule.schedule import Schedule, straight_paths


def breadth_first(ranks: int, microbatches: int, chunks: int = 2) -> Schedule:
    """Bare compute: GPipe over a looped placement, backwards in reverse. The bubble is (P − 1)/(M·v) of the ideal time.

    All M·v activations are held at once. In return a stage's weights are wanted in one stretch, and its gradients are
    done in one, which is what sharded data parallelism likes.
    """
    actions = []
    for rank in range(ranks):
        order = [(chunk * ranks + rank, m) for chunk in range(chunks) for m in range(microbatches)]
        forwards = [Action(Kind.F, stage, m) for stage, m in order]
        backwards = [Action(Kind.B, stage, m) for stage, m in reversed(order)]
        actions.append((*forwards, *backwards))
    return Schedule("breadth-first", straight_paths(looped(ranks, chunks), microbatches), tuple(actions))
