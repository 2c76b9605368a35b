"""A pipeline cut and predicted from what its cells and messages cost each rank, as measured: before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from grainline.documents import ModelConfig
from grainline.plan.sums import ring_seconds, shared_gradients, shared_seconds
from grainline.schedule import Costs, Kind, Network, Schedule, add_messages, lower, make_schedule, simulate
from grainline.schedule.actions import COMPUTE
from grainline.schedule.cells import cells_of, stages_of
from grainline.schedule.cut import cut, equal_cut
from grainline.schedule.table import SCHEDULES

if TYPE_CHECKING:
    from grainline.parallel.pipeline.profile_messages import Messages

WhichCut = Literal["equal", "balanced"]
Profile = Mapping[str, Mapping[Kind, float]]
"""Seconds of a micro-batch on one rank, by cell and kind."""


@dataclass(frozen=True)
class Laid:
    """Ready to be predicted, and to run."""

    schedule: Schedule  # with its messages
    stages: tuple[tuple[str, ...], ...]  # names of cells
    costs: Costs


def lay_out(
    config: ModelConfig,
    name: str,
    microbatches: int,
    profiles: Sequence[Profile],
    which: WhichCut,
    message_bytes: float,
) -> Laid:
    """The schedule `name` over as many ranks as profiles: the blocks dealt evenly, or cells balanced by seconds."""
    from grainline.parallel.pipeline.connect import cells_by_stage
    from grainline.parallel.pipeline.profile import costs_of

    ranks, cells, chosen = len(profiles), cells_of(config), SCHEDULES[name]
    placement = chosen.place(ranks, chosen.usual_chunks)
    if which == "equal":
        sizes = equal_cut(cells, len(placement))
    else:
        whole = [[of[cell.name][Kind.F] + of[cell.name][Kind.B] for cell in cells] for of in profiles]
        sizes = cut(whole, placement).cells
    stages = cells_by_stage([cell.name for cell in cells], sizes)
    costs = costs_of(profiles, stages, message_bytes)
    schedule = make_schedule(name, ranks, microbatches, costs=costs)
    return Laid(add_messages(schedule, chosen.lookahead), stages, costs)


def predicted_seconds(config: ModelConfig, laid: Laid, messages: Messages) -> float:
    """Of a step, by the simulator, and of the sums of gradients that follow its passes."""
    network = Network.uniform(laid.schedule.ranks, messages.latency_seconds, messages.bytes_per_second)
    timeline = simulate(lower(laid.schedule, laid.costs, network, overlap_speed=messages.overlap_speed))

    def ring(ranks: Sequence[int], moved_bytes: float) -> float:
        return ring_seconds(len(ranks), moved_bytes, messages.latency_seconds, messages.bytes_per_second)

    stages = stages_of(cells_of(config), tuple(len(names) for names in laid.stages))
    return timeline.makespan + shared_seconds(shared_gradients(config, laid.schedule, stages), ring)


def naive_seconds(laid: Laid) -> float:
    """Of a step, if all compute were shared evenly and nobody ever waited."""
    total = sum(
        laid.costs.stage(action.stage, rank).seconds[action.kind]
        for rank, actions in enumerate(laid.schedule.actions)
        for action in actions
        if action.kind in COMPUTE
    )
    return total / laid.schedule.ranks
