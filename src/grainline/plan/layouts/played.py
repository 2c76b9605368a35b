"""Played: a strategy's step event by event, the last rung of the ladder of estimates before the real run.

The same schedules that the runtime executes, with stages' seconds from `pricing` and ways between stages from `rows`.
What follows the passes (sums of gradients, the update) is the closed form's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from grainline.plan.layouts import memory
from grainline.plan.layouts.estimate import Memory
from grainline.plan.layouts.objective import Objective, time
from grainline.plan.layouts.pricing import COMPUTE, EXPERT, FORWARD, RECOMPUTE, WEIGHTS, table
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.rows import Rows, between
from grainline.plan.layouts.searches.frame import Found, Ranked, on
from grainline.plan.layouts.strategy import Strategy
from grainline.schedule import Costs, Kind, Network, StageCost, Timeline, add_messages, lower, make_schedule, simulate
from grainline.schedule.simulator.graph import Link
from grainline.schedule.simulator.network import Route
from grainline.schedule.table import SCHEDULES

MOST_TASKS = 2_000_000
"""Of a step that is played; a longer one keeps its closed form."""


@dataclass(frozen=True)
class Played:
    """A layout with the timeline of its step."""

    ranked: Ranked
    timeline: Timeline | None  # None where it would have too many tasks
    seconds: float

    @property
    def interval(self) -> tuple[float, float]:
        """Seconds that hold the real step nine times in ten: as wide as the closed form's."""
        low, high = (end / self.ranked.seconds for end in self.ranked.estimate.interval)
        return low * self.seconds, high * self.seconds


def refine(problem: Problem, found: Found, objective: Objective = time) -> tuple[Played, ...]:
    """The best of a search, played, and ordered by the objective of what that gave."""

    def key(played: Played) -> tuple[float, int]:
        least, groups = played.ranked.key(objective)
        return float(f"{least * played.seconds / played.ranked.seconds:.6g}"), groups

    return tuple(sorted((play(problem, ranked) for ranked in found.best), key=key))


def play(problem: Problem, ranked: Ranked) -> Played:
    """One step of a layout."""
    st = ranked.estimate.strategy
    m = st.microbatches(problem.batch_sequences)
    after = ranked.estimate.seconds.data + ranked.estimate.seconds.update
    if 6 * m * st.pipeline * st.chunks > MOST_TASKS:
        return Played(ranked, None, ranked.seconds)
    problem = problem if ranked.fleet is problem.fleet else on(problem, ranked.fleet)
    schedule = make_schedule(st.schedule, st.pipeline, m, chunks=st.chunks)
    sent, network = _network(problem, st)
    costs = _costs(problem, ranked, sent)
    schedule = add_messages(schedule, SCHEDULES[st.schedule].lookahead)
    capacity = dict(enumerate(ranked.estimate.capacity))
    graph = lower(schedule, costs, network, capacity_bytes=None, count_received=False)
    timeline = simulate(graph, st.schedule)
    series = tuple(replace(s, capacity_bytes=capacity.get(rank)) for rank, s in enumerate(timeline.memory))
    timeline = replace(timeline, memory=series)
    return Played(ranked, timeline, timeline.makespan + after)


def _costs(problem: Problem, ranked: Ranked, sent_bytes: float) -> Costs:
    """Of each stage, from the cells that it has; of each rank, what it holds throughout."""
    estimate = ranked.estimate
    st = estimate.strategy
    rows = Rows.under(problem, st)
    tables = [table(problem, st, row) for row in rows.rows]
    kinds = [problem.kinds.index(cell) for cell in problem.cells]
    ends = list(accumulate(estimate.cut))
    kept = memory.kept(problem, st)
    stages = []
    for s, (size, end) in enumerate(zip(estimate.cut, ends, strict=True)):
        held = kinds[end - size : end]
        cells = tables[int(rows.of[s % st.pipeline])][held].sum(0) if held else np.zeros(tables[0].shape[1])
        total, forward, weights = float(cells[COMPUTE : EXPERT + 1].sum()), float(cells[FORWARD]), float(cells[WEIGHTS])
        seconds = {
            Kind.F: forward,
            Kind.B: total - forward,
            Kind.I: total - forward - weights,
            Kind.W: weights,
            Kind.R: float(cells[RECOMPUTE]),
        }
        stages.append(StageCost(seconds, output_bytes=sent_bytes, kept_bytes=float(kept[held].sum())))
    throughout = {
        rank: m.total - m.activations for rank, m in enumerate(Memory(*row) for row in estimate.bytes_of.tolist())
    }
    return Costs(lambda stage, rank: stages[stage], static_bytes=throughout)


def _network(problem: Problem, st: Strategy) -> tuple[float, Network]:
    """Bytes of a message, and a link of its own for each way between neighbouring pipeline ranks, in each direction.

    That all ranks of a row send at once is in the ways' rates.
    """
    if st.pipeline == 1:
        return 0.0, Network.ideal(1)
    here = problem.width * st.sequences * problem.length / st.context * problem.shape.hidden
    split = st.tensor > 1 and (st.sequence_parallel or problem.engine.scatters)
    count = here / st.tensor if split else here
    gathered = 0.0
    if split and not st.sequence_parallel:
        gathered = problem.fleet.ring(st.tensor, 1, 0, st.ranks).gather(here)
    links: list[Link] = []
    routes: dict[tuple[int, int], Route] = {}
    for a, ring in enumerate(between(problem.fleet, st)):
        b = (a + 1) % st.pipeline
        latency = ring.hop(0.0) + gathered
        for source, target in ((a, b), (b, a)):
            if (source, target) not in routes:
                routes[source, target] = Route(latency, (len(links),))
                links.append(Link(f"rank {source} → rank {target}", ring.across_bytes_per_second))
    return count, Network(tuple(links), lambda source, target: routes[source, target])
