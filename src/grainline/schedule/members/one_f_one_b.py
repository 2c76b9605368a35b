"""1F1B: one forward, one backward; with as many forwards before as the first gradient takes to come back, or more."""

from __future__ import annotations

from collections.abc import Sequence

from grainline.schedule.actions import Action, Kind
from grainline.schedule.members.placement import looped
from grainline.schedule.schedule import Schedule, straight_paths


def one_f_one_b(ranks: int, microbatches: int) -> Schedule:
    """Bare compute of 1F1B, PipeDream-Flush (arXiv 2104.04473, section 2.2.1): one stage per rank.

    GPipe's bubble, but rank r holds at most P − r micro-batches at once.
    """
    return alternating("1f1b", range(ranks - 1, -1, -1), microbatches)


def eager_1f1b(ranks: int, microbatches: int, ahead: int = 2) -> Schedule:
    """1F1B with `ahead` forwards of warm-up for each rank behind (arXiv 2211.05322 has 2; 1 is 1F1B itself).

    Rank r holds at most ahead·(P − 1 − r) + 1 micro-batches. Between two ranks a message there and one back may
    together take (ahead − 1) times an F and a B without holding up the steady state.
    """
    if ahead < 1:
        raise ValueError(f"{ahead} forwards of warm-up for each rank behind: 1 or more")
    return alternating("eager-1f1b", range(ahead * (ranks - 1), -1, -ahead), microbatches)


def alternating(name: str, warm_ups: Sequence[int], microbatches: int) -> Schedule:
    """1F1B's order with any number of forwards before the first backward, one for each rank."""
    actions = []
    for rank, warm_up in enumerate(warm_ups):
        forwards = [Action(Kind.F, rank, m) for m in range(microbatches)]
        backwards = [Action(Kind.B, rank, m) for m in range(microbatches)]
        actions.append(alternate(forwards, backwards, min(microbatches, warm_up)))
    return Schedule(name, straight_paths(looped(len(warm_ups)), microbatches), tuple(actions))


def alternate(forwards: list[Action], backwards: list[Action], warm_up: int) -> tuple[Action, ...]:
    """`warm_up` forwards, then a forward and a backward in turn, then the backwards that are left."""
    steady = [a for pair in zip(forwards[warm_up:], backwards, strict=False) for a in pair]
    return (*forwards[:warm_up], *steady, *backwards[len(forwards) - warm_up :])
