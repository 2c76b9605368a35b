"""What a plan is worth: its schedule, carried out by the simulator in the order that the plan fixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grainline.plan.skip.problem import Route, SkipProblem
from grainline.plan.skip.timetable import starts_of, timetable
from grainline.schedule import Costs, Hop, Kind, Network, Schedule, StageCost, Timeline, add_messages, lower, simulate
from grainline.schedule.members.partial import LOOKAHEAD, partial
from grainline.schedule.simulator.network import Route as Way


@dataclass(frozen=True)
class Setting:
    """What the simulator is told: costs of stages on nodes (which are its ranks), and how messages travel.

    Where pairs share links the plan's own clock (`timetable.py`) is too early, and searches had better ask here.
    """

    costs: Costs
    network: Network
    shares_links: bool = False

    @classmethod
    def of(cls, problem: SkipProblem) -> Setting:
        """The problem's own figures: every message takes its seconds, and shares no link with others."""
        network = Network((), lambda source, target: Way(problem.transfer_seconds[source][target], ()))
        return cls(costs_of(problem), network)


def costs_of(problem: SkipProblem, activation_bytes: float = 0.0) -> Costs:
    """A stage costs its node's seconds; head and loss, the last stage, share theirs out to forward and backward."""

    def stage(number: int, node: int) -> StageCost:
        forward = problem.forward_seconds[node]
        if number == problem.head:
            forward *= problem.loss_share / (1 + problem.backward_ratio)
        seconds = {Kind.F: forward, Kind.B: problem.backward_ratio * forward}
        return StageCost(seconds, output_bytes=activation_bytes)

    return Costs(stage)


def schedule_of(problem: SkipProblem, routes: Sequence[Route], microbatches: int, name: str = "partial") -> Schedule:
    """Bare compute: micro-batch m takes route m mod (number of routes); nodes are ranks."""
    paths = []
    for m in range(microbatches):
        route = routes[m % len(routes)]
        paths.append((*(Hop(problem.stage_of[node], node) for node in route), Hop(problem.head, route[0])))
    visits = timetable(problem, routes, microbatches)
    return partial(paths, [starts_of(problem, mine) for mine in visits], problem.nodes, name)


def judge(schedule: Schedule, setting: Setting) -> Timeline:
    """Play a bare schedule."""
    return simulate(lower(add_messages(schedule, LOOKAHEAD), setting.costs, setting.network), schedule.name)
