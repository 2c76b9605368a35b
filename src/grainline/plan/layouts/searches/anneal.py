"""Pipette: the best strategies by nominal rates, then nodes put in an order that suits measured links by annealing.

arXiv 2405.18093, sections 4 and 5. The order changes neither compute nor memory: what is annealed is what messages
between stages and sums of gradients take, in closed form; the best orders are evaluated whole.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.searches.exhaustive import exhaustive
from grainline.plan.layouts.searches.frame import Budget, Found, Ranked, Ranking, on
from grainline.plan.layouts.space import Pins
from grainline.plan.layouts.step import evaluate
from grainline.plan.layouts.strategy import Strategy

COOLING = 0.999  # of the temperature, each step; the paper's
NARROWED = 8  # strategies whose order is annealed
RESTARTS = 4

Order = tuple[int, ...]
"""Nodes, by place in the fleet's own order of nodes."""


def anneal(problem: Problem, pins: Pins, budget: Budget) -> Found:
    """Half of the time for strategies, half for orders; never worse than the order that the cluster has."""
    half = replace(budget, seconds=budget.seconds / 2, keep=max(NARROWED, budget.keep))
    first = exhaustive(problem, pins, half)
    ranking = Ranking(budget.keep, budget.objective)
    for ranked in first.best:
        ranking.add(ranked)
    if first.interrupted:
        return first
    narrowed = first.best[:NARROWED]
    for i, ranked in enumerate(narrowed):
        fleet, strategy = ranked.fleet, ranked.estimate.strategy
        nodes = nodes_of(fleet, strategy.ranks)
        if len(nodes) < 2 or len({len(ranks) for ranks in nodes}) > 1:
            continue
        seconds = (budget.seconds - (budget.seconds / 2)) / len(narrowed)
        draw = random.Random(budget.seed * 1000 + i)
        cost = message_seconds(problem, strategy, fleet, nodes)
        order = annealed(cost, len(nodes), draw, Budget(seconds))
        moved = fleet.reordered([fleet.order[r] for node in order for r in nodes[node]] + unused(fleet, strategy))
        ranking.add(Ranked(evaluate(on(problem, moved), strategy), moved))
    found = ranking.found(complete=first.complete)
    return Found(_distinct(found.best), first.evaluated + len(narrowed), first.too_large, first.nearest, first.complete)


def nodes_of(fleet: Fleet, ranks: int) -> list[list[int]]:
    """The ranks of each node, in the order of ranks."""
    found: dict[int, list[int]] = {}
    for rank in range(ranks):
        found.setdefault(fleet.node_of(rank), []).append(rank)
    return list(found.values())


def unused(fleet: Fleet, strategy: Strategy) -> list[int]:
    """Devices behind those that a strategy uses."""
    return list(fleet.order[strategy.ranks :])


def message_seconds(
    problem: Problem, strategy: Strategy, fleet: Fleet, nodes: Sequence[Sequence[int]]
) -> Callable[[Order], float]:
    """What an order of nodes costs: (m/p) round trips through the pipeline, and the first stage's sum of gradients.

    An order that puts devices of another type elsewhere costs infinitely much: that is another layout.
    """
    st, shape, p = strategy, problem.shape, strategy.pipeline
    m = st.microbatches(problem.batch_sequences)
    count = problem.width * st.sequences * problem.length / st.splits_sequence * shape.hidden
    layers = math.ceil(shape.layers / p)
    dense = shape.attention_matrices + (shape.beside_experts if shape.sparse_layers else shape.ffn_parameters)
    summed = problem.engine.gradient_bytes * (layers * dense + shape.table_parameters) / st.tensor
    types = [fleet.types[r].name for r in range(len(fleet))]

    def cost(order: Order) -> float:
        ranks = [r for node in order for r in nodes[node]]
        if any(types[r] != types[i] for i, r in enumerate(ranks)):
            return math.inf
        moved = fleet.reordered([fleet.order[r] for r in ranks] + unused(fleet, st))
        width = st.width
        trip = 0.0
        for r in range(p - 1):
            hop = moved.hop(width, r * width, (r + 1) * width)
            trip += 2 * st.chunks * (hop.across_latency + count / hop.across_bytes_per_second)
        ring = moved.ring(st.data * st.context, st.tensor, 0, width)
        return max(1.0, m / p) * trip + ring.reduce(summed)

    return cost


def annealed(cost: Callable[[Order], float], nodes: int, draw: random.Random, budget: Budget) -> Order:
    """The best order found: reversed segments, swaps and moved nodes, worse ones taken while it is warm."""
    start: Order = tuple(range(nodes))
    best, least = start, cost(start)
    for _ in range(RESTARTS):
        order, now, heat = start, cost(start), 1.0
        scale = now or 1.0
        while heat > 1e-3 and not budget.spent:
            tried = _moved(order, draw)
            then = cost(tried)
            if then <= now or (math.isfinite(then) and draw.random() < math.exp(-(then - now) / (scale * 0.1 * heat))):
                order, now = tried, then
                if now < least:
                    best, least = order, now
            heat *= COOLING
        start = best
    return best


def _moved(order: Order, draw: random.Random) -> Order:
    a, b = sorted(draw.sample(range(len(order) + 1), 2))
    match draw.randrange(3):
        case 0:  # a segment turned round
            return order[:a] + order[a:b][::-1] + order[b:]
        case 1:  # two swapped
            changed = list(order)
            i, j = draw.sample(range(len(order)), 2)
            changed[i], changed[j] = changed[j], changed[i]
            return tuple(changed)
    rest = order[:a] + order[b:]  # a segment moved
    at = draw.randint(0, len(rest))
    return rest[:at] + order[a:b] + rest[at:]


def _distinct(best: Sequence[Ranked]) -> tuple[Ranked, ...]:
    """Of each strategy the faster order."""
    seen: dict[Strategy, Ranked] = {}
    for ranked in best:
        seen.setdefault(ranked.estimate.strategy, ranked)
    return tuple(seen.values())
