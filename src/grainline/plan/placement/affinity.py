"""Experts that follow one another on the same rank (ExFlow, arXiv 2401.08383): by sweeps of exact assignments.

With the layers beside it held still, the best places of a layer's experts are a linear assignment problem. So layers
are gone through there and back until nothing gets better, from several starts; every step is exact, and none makes it
worse. `affinity_program` has the integer programs of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy.optimize import linear_sum_assignment

from grainline.plan.placement.placement import Ints, Placement, Problem
from grainline.plan.placement.statistics import Floats, Statistics

SHAKES = 2
"""Sweeps from the best so far, shaken, for each start that is drawn."""
Solver = Callable[[Statistics, int], Ints]
"""Statistics and a number of ranks → the rank of each expert by bank, as many on each."""


def affinity(problem: Problem) -> Placement:
    """Fewest steps between ranks with equal numbers of experts on each; between nodes first, where there are several.

    In stages it never takes more steps between nodes than without, as what is found without is one of the starts.
    """
    from grainline.plan.placement.affinity_program import Program, bipartition

    problem.quota("affinity")
    options, found, ranks = problem.options, problem.statistics, problem.ranks
    if options.affinity == "bipartition":
        rank_BE, note = bipartition(problem)
        return Placement.of(rank_BE, problem, note)
    if options.affinity == "ilp":
        program = Program(options)
        rank_BE = _staged(problem, program) if _stages(problem) else program(found, ranks.count)
        return Placement.of(rank_BE, problem, program.note, program.gap)
    rank_BE = swept(found, ranks.count, options.restarts, options.seed)
    if _stages(problem):
        rank_BE = _staged(problem, sweeps(problem, by_node(problem, rank_BE)))
    return Placement.of(rank_BE, problem)


def sweeps(problem: Problem, node_BE: Ints | None = None) -> Solver:
    """`swept` with the problem's options; node_BE: a start more for the stage of nodes."""

    def solve(statistics: Statistics, ranks: int) -> Ints:
        starts = [] if node_BE is None or node_BE.shape[1] != statistics.experts else [node_BE]
        return swept(statistics, ranks, problem.options.restarts, problem.options.seed, starts)

    return solve


def by_node(problem: Problem, rank_BE: Ints) -> Ints:
    """The node, as numbered by `ExpertRanks.nodes`, of each expert."""
    node_G = np.zeros(problem.ranks.count, dtype=np.intp)
    for node, ranks in enumerate(problem.ranks.nodes):
        node_G[list(ranks)] = node
    return node_G[rank_BE]


def _stages(problem: Problem) -> bool:
    """Whether nodes come first: there are several, none of one rank alone, and all alike."""
    nodes = problem.ranks.nodes
    return problem.options.staged and len(nodes) > 1 and {len(node) for node in nodes} == {len(nodes[0])} != {1}


def _staged(problem: Problem, solve: Solver) -> Ints:
    """Nodes with the fewest steps between them, then in each node ranks with the fewest, of steps that stay in it."""
    found, nodes = problem.statistics, problem.ranks.nodes
    node_BE = solve(found, len(nodes))
    rank_BE = np.zeros_like(node_BE)
    for node, ranks in enumerate(nodes):
        mine = np.array([np.flatnonzero(row == node) for row in node_BE])  # [banks, E / nodes]
        inside = solve(found.of_experts(mine), len(ranks))
        np.put_along_axis(rank_BE, mine, np.array(ranks)[inside], axis=1)
    return rank_BE


def swept(statistics: Statistics, ranks: int, restarts: int = 8, seed: int = 0, starts: Iterable[Ints] = ()) -> Ints:
    """[banks, E]: the best of sweeps from these starts, from the contiguous placement, and from `restarts` draws; and
    of sweeps from that, shaken.
    """
    banks, experts = len(statistics.members), statistics.experts
    rng = np.random.default_rng(seed)
    even = np.repeat(np.arange(ranks), experts // ranks)
    drawn = [np.array([rng.permutation(even) for _ in range(banks)]) for _ in range(restarts)]
    found = [sweep(statistics, start, ranks) for start in [*starts, np.tile(even, (banks, 1)), *drawn]]
    best = min(found, key=lambda rank_BE: crossing(statistics, rank_BE))
    for _ in range(SHAKES * restarts):
        tried = sweep(statistics, _shaken(best, rng), ranks)
        best = min(best, tried, key=lambda rank_BE: crossing(statistics, rank_BE))
    return best


def _shaken(rank_BE: Ints, rng: np.random.Generator) -> Ints:
    """Two experts of every other bank or so change places, and so do all of one bank."""
    shaken = rank_BE.copy()
    banks, experts = rank_BE.shape
    for bank in np.flatnonzero(rng.random(banks) < 0.5):
        a, b = rng.integers(experts, size=2)
        shaken[bank, [a, b]] = shaken[bank, [b, a]]
    bank = rng.integers(banks)
    shaken[bank] = rng.permutation(shaken[bank])
    return shaken


def sweep(statistics: Statistics, start_BE: Ints, ranks: int) -> Ints:
    """Banks there and back, each placed anew as is best beside the others, until a sweep brings nothing."""
    rank_BE, banks = start_BE.copy(), len(statistics.members)
    best = crossing(statistics, rank_BE)
    while True:
        before = best
        for bank in [*range(banks), *reversed(range(banks - 1))]:
            gain_EG = _gain(statistics, rank_BE, bank, ranks)
            # Every rank is offered as many times as it has slots.
            slots = np.repeat(np.arange(ranks), statistics.experts // ranks)
            experts, chosen = linear_sum_assignment(gain_EG[:, slots], maximize=True)
            tried_BE = rank_BE.copy()
            tried_BE[bank, experts] = slots[chosen]
            # Exact but for banks of several neighbouring layers, whose own steps the assignment takes as they were.
            value = crossing(statistics, tried_BE)
            if value < best - 1e-12:
                rank_BE, best = tried_BE, value
        for bank in range(1, banks):  # the same with all banks from here on at once, whose ranks are named anew
            tried_BE = _renamed(statistics, rank_BE, bank, ranks)
            value = crossing(statistics, tried_BE)
            if value < best - 1e-12:
                rank_BE, best = tried_BE, value
        if best >= before - 1e-12:
            return rank_BE


def _renamed(statistics: Statistics, rank_BE: Ints, first: int, ranks: int) -> Ints:
    """Ranks of the banks from `first` on in the order in which most steps into them stay."""
    one_hot, stays_GG = np.eye(ranks), np.zeros((ranks, ranks))
    for layer, flow_EE in enumerate(statistics.flow_LEE):
        here, there = statistics.banks[layer], statistics.banks[layer + 1]
        if here < first <= there:
            stays_GG += one_hot[rank_BE[here]].T @ flow_EE @ one_hot[rank_BE[there]]
    kept, renamed = linear_sum_assignment(stays_GG, maximize=True)
    name = np.empty(ranks, dtype=np.intp)
    name[renamed] = kept
    return np.concatenate([rank_BE[:first], name[rank_BE[first:]]])


def _gain(statistics: Statistics, rank_BE: Ints, bank: int, ranks: int) -> Floats:
    """[E, G]: steps that stay on a rank if the expert is there, by where the neighbouring layers' experts are now."""
    gain = np.zeros((statistics.experts, ranks))
    one_hot = np.eye(ranks)
    for layer in statistics.members[bank]:
        if layer > 0:
            gain += statistics.flow_LEE[layer - 1].T @ one_hot[rank_BE[statistics.banks[layer - 1]]]
        if layer < statistics.layers - 1:
            gain += statistics.flow_LEE[layer] @ one_hot[rank_BE[statistics.banks[layer + 1]]]
    return gain


def crossing(statistics: Statistics, rank_BE: Ints) -> float:
    """Steps of a token, from layer to layer, that go to another rank."""
    rows = rank_BE[list(statistics.banks)]
    return float(
        sum(flow_EE[rows[layer][:, None] != rows[layer + 1]].sum() for layer, flow_EE in enumerate(statistics.flow_LEE))
    )
