"""What actions cost: seconds, messages' bytes and kept memory, by stage and rank. Whoever knows fills it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from grainline.schedule.actions import Kind


@dataclass(frozen=True)
class StageCost:
    """Of one stage on one rank, for one micro-batch. Times in seconds, sizes in bytes.

    A stage that isn't split has B; one that is has I and W, and B for what isn't split after all.
    """

    seconds: Mapping[Kind, float]
    output_bytes: float = 0.0  # what goes on to the next stage; its gradient is as large
    kept_bytes: float = 0.0  # what F keeps for the backward
    input_bytes: float = 0.0  # what is kept where the rest is computed again
    queued_bytes: float = 0.0  # what I leaves for W; the rest of `kept_bytes` is freed by I

    def __post_init__(self) -> None:
        for kind, seconds in self.seconds.items():
            if not 0 <= seconds < float("inf"):
                raise ValueError(f"{kind} takes {seconds} seconds: must be 0 or more")


@dataclass(frozen=True)
class Costs:
    """Of a step. `stage(s, r)` is the cost of stage s on rank r.

    `static_bytes` is, by rank, what it holds throughout: weights, gradients, optimiser state. `collective_bytes` is the
    size of the tensor that a collective sums or copies; what crosses the links follows (`collectives.py`).
    `rank_seconds` is of passes that belong to no stage (S, T, UPDATE …), and of what a collective takes besides the
    time on its links; `seconds_on` says it for one rank where ranks are unlike.
    """

    stage: Callable[[int, int], StageCost]
    static_bytes: Mapping[int, float] = field(default_factory=dict)
    collective_bytes: Mapping[Kind, float] = field(default_factory=dict)
    rank_seconds: Mapping[Kind, float] = field(default_factory=dict)
    seconds_on: Mapping[tuple[Kind, int], float] = field(default_factory=dict)


def equal_costs(
    forward: float = 1.0,
    backward: float = 2.0,
    *,
    weight: float | None = None,
    output_bytes: float = 0.0,
    kept_bytes: float = 0.0,
) -> Costs:
    """All stages alike. `weight` is W's part of `backward` (default: half of it); I takes the rest."""
    w = backward / 2 if weight is None else weight
    cost = StageCost(
        {Kind.F: forward, Kind.B: backward, Kind.I: backward - w, Kind.W: w, Kind.R: forward},
        output_bytes,
        kept_bytes,
    )
    return Costs(lambda stage, rank: cost)
