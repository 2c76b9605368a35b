"""plan_skip: a cluster, or a problem that is stated already → a partial pipeline, ready to be run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from grainline.documents import Cluster, GrainlineError, Plan
from grainline.documents.plan import Pipeline
from grainline.hardware.topology import Topology, topology
from grainline.plan.skip.baselines import full_pipelines, random_routes
from grainline.plan.skip.judge import Setting, costs_of, judge, schedule_of
from grainline.plan.skip.placement import place
from grainline.plan.skip.problem import Route, Seconds, SkipProblem
from grainline.plan.skip.solve import Answer, solve
from grainline.plan.skip.timetable import starts_of, timetable
from grainline.plan.skip.work import Work
from grainline.schedule import Network, Schedule
from grainline.schedule.simulator.network import Route as Way

METHODS = ("full", "random", "unaware", "aware")
"""DT-FM's full pipelines; random paths within the quotas; SkipPipe without TC2; SkipPipe."""


@dataclass(frozen=True)
class SkipPlan:
    """A plan of METHODS. Ranks are nodes of the problem, devices of the cluster in its topology's order."""

    problem: SkipProblem
    routes: tuple[Route, ...]  # of the micro-batches of a round
    microbatches: int
    schedule: Schedule  # bare; `add_messages` makes it fit to run
    expected_seconds: float  # simulated, from the first forward to the last backward
    answer: Answer | None = None  # what the search knows, where there was one

    @property
    def paths(self) -> tuple[Route, ...]:
        """By micro-batch: the nodes that it visits, then back to the first."""
        return tuple(self.routes[m % len(self.routes)] for m in range(self.microbatches))

    @property
    def placement(self) -> tuple[tuple[int, ...], ...]:
        """The nodes of each stage."""
        return self.problem.stages

    def to_plan(self, cut: Sequence[int]) -> Plan:
        """As a document. `cut` is the model's cells in each stage, of which the last is the head's: one more than S.

        The order of visits goes into it as their planned starts.
        """
        if len(cut) != len(self.problem.stages) + 1:
            raise GrainlineError(
                f"a cut of {len(cut)} stages for a plan of {len(self.problem.stages)} and the head: name the cells of "
                f"{len(self.problem.stages) + 1}, those of the embedding in the first, of the head in the last"
            )
        visits = timetable(self.problem, self.routes, self.microbatches)
        pipeline = Pipeline(
            ranks=self.problem.nodes,
            schedule="partial",
            microbatches=self.microbatches,
            cut=tuple(cut),
            paths=tuple(tuple((hop.stage, hop.rank) for hop in path) for path in self.schedule.paths),
            starts=tuple(starts_of(self.problem, mine) for mine in visits),
        )
        return Plan(pipeline=pipeline)


def plan_skip(
    source: Cluster | SkipProblem,
    work: Work | None = None,
    *,
    stages: int = 6,
    nodes_per_stage: Sequence[int] | None = None,
    path_length: int = 4,
    slots_per_node: int = 3,
    microbatches: int | None = None,
    collision_aware: bool = True,
    budget_s: float = 60.0,
    seed: int = 0,
) -> SkipPlan:
    """The partial pipeline with the shortest step that the budget finds.

    Of a cluster, devices are first placed into stages (a quarter of the budget), for which `work` is needed; a problem
    says by itself all but `microbatches`, of a step: by default as many as are planned at once. Raises GrainlineError
    for what can't be, see `SkipProblem`.
    """
    end = time.monotonic() + budget_s
    setting = None
    if isinstance(source, SkipProblem):
        problem = source
    else:
        if work is None:
            raise GrainlineError("plan_skip needs the work of a stage to plan for a cluster: pass work=Work(…)")
        sizes = shared_out(len(work.forward_seconds), stages) if nodes_per_stage is None else tuple(nodes_per_stage)
        if len(sizes) != stages:
            raise GrainlineError(f"nodes_per_stage names {len(sizes)} stages, and there are to be {stages}")
        wires = topology(source)
        problem = problem_for(
            wires, work, sizes, path_length, slots_per_node, seed=seed, until=time.monotonic() + budget_s / 4
        )
        setting = setting_for(wires, work, problem)
    method = "aware" if collision_aware else "unaware"
    budget = max(0.0, end - time.monotonic())
    return plan_by(method, problem, microbatches, setting=setting, budget_s=budget, seed=seed)


def plan_by(
    method: str,
    problem: SkipProblem,
    microbatches: int | None = None,
    *,
    setting: Setting | None = None,
    budget_s: float = 60.0,
    expansions: int = 5000,
    tries: int = 20_000,
    seed: int = 0,
) -> SkipPlan:
    """A plan by one of METHODS; all of them are put in order and judged alike."""
    if method not in METHODS:
        raise GrainlineError(f"there is no method '{method}': {', '.join(METHODS)}")
    count = problem.agents if microbatches is None else microbatches
    if count < 1:
        raise GrainlineError(f"microbatches is {count}: must be 1 or more")
    answer = None
    if method == "full":
        problem, routes = full_pipelines(problem)
    elif method == "random":
        routes = random_routes(problem, seed)
    else:

        def simulated(routes: Sequence[Route]) -> float:
            assert setting is not None
            return judge(schedule_of(problem, routes, count), setting).makespan

        answer = solve(
            problem,
            count,
            value=simulated if setting is not None and setting.shares_links else None,
            collision_aware=method == "aware",
            budget_s=budget_s,
            expansions=expansions,
            tries=tries,
            seed=seed,
        )
        routes = answer.routes
    schedule = schedule_of(problem, routes, count, f"partial, {method}")
    seconds = judge(schedule, setting or Setting.of(problem)).makespan
    return SkipPlan(problem, routes, count, schedule, seconds, answer)


def shared_out(nodes: int, stages: int) -> tuple[int, ...]:
    """As many nodes for each stage, and what is left over for the data nodes'."""
    if not 2 <= stages <= nodes:
        raise GrainlineError(f"{nodes} nodes can't serve {stages} stages: take between 2 and {nodes}")
    each = nodes // stages
    return (nodes - each * (stages - 1), *[each] * (stages - 1))


def planned_at_once(sizes: Sequence[int], path_length: int, slots: int) -> int:
    """As many micro-batches as data nodes and quotas let in together."""
    count = sizes[0] * slots
    while count > 1 and sum(min(size * slots, count) for size in sizes[1:]) < count * (path_length - 1):
        count -= 1
    return count


def problem_for(
    wires: Topology,
    work: Work,
    sizes: Sequence[int],
    path_length: int,
    slots: int,
    *,
    seed: int = 0,
    trials: int = 2000,
    until: float = float("inf"),
) -> SkipProblem:
    """Devices placed into stages, and as many micro-batches at once as fit, shared out among the data nodes in turn."""
    if len(work.forward_seconds) != len(wires.devices):
        raise GrainlineError(
            f"work has forward_seconds of {len(work.forward_seconds)} devices, and the cluster has {len(wires.devices)}"
        )
    transfer = transfers(wires, work)
    agents = planned_at_once(sizes, path_length, slots)
    per_node = max(1.0, agents / sizes[0])
    weight = work.gradient_bytes / (work.activation_bytes * per_node) if work.activation_bytes else 0.0
    placed = place(transfer, sizes, gradient_weight=weight, seed=seed, trials=trials, until=until)
    data = placed.stages[0]
    starts = tuple(data[agent % len(data)] for agent in range(agents))
    return SkipProblem(
        placed.stages,
        work.forward_seconds,
        transfer,
        starts,
        path_length,
        slots,
        backward_ratio=work.backward_ratio,
        loss_share=work.loss_share,
    )


def transfers(wires: Topology, work: Work) -> tuple[Seconds, ...]:
    """Of one micro-batch's activations between two devices alone; infinite where there is no way."""

    def seconds(a: int, b: int) -> float:
        if a == b:
            return 0.0
        if not wires.joined(a, b):
            return float("inf")
        return wires.latency_seconds(a, b) + work.hop_seconds + work.activation_bytes / wires.bytes_per_second(a, b)

    devices = range(len(wires.devices))
    return tuple(tuple(seconds(a, b) for b in devices) for a in devices)


def setting_for(wires: Topology, work: Work, problem: SkipProblem) -> Setting:
    """For the simulator: messages share the cluster's links."""
    network = Network.of(wires, range(len(wires.devices)))

    def between(source: int, target: int) -> Way:
        way = network.between(source, target)
        return Way(way.latency_seconds + work.hop_seconds, way.links)

    return Setting(costs_of(problem, work.activation_bytes), Network(network.links, between), shares_links=True)
