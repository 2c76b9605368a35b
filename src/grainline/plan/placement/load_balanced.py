"""Equal load: the heaviest expert first, each to the rank with least to do; hot ones in several copies.

Longest processing time first (Graham 1969). Copies go to the expert with the highest load per copy until all slots are
taken, as DeepSeek's published balancer has it.
"""

from __future__ import annotations

import heapq

import numpy as np

from grainline.documents.expert_placement import Holders
from grainline.plan.placement.placement import Placement, Problem
from grainline.plan.placement.statistics import Floats


def load_balanced(problem: Problem) -> Placement:
    """Ranks have ⌈E/G⌉ slots of each bank, and `options.replicas` more for copies; faster ranks are given more load."""
    found, ranks = problem.statistics, problem.ranks.count
    speed_G = problem.ranks.flops_per_second_G / problem.ranks.flops_per_second_G.mean()
    slots = min(-(-found.experts // ranks) + problem.options.replicas, found.experts)
    rows = tuple(
        _balanced(found.load_LE[list(layers)], speed_G, slots, problem.options.replicas > 0) for layers in found.members
    )
    return Placement(rows, found.banks, ranks)


def _balanced(load_LE: Floats, speed_G: Floats, slots: int, copies: bool) -> Holders:
    """Of one bank: the layers that share it have their loads side by side, and the fullest rank counts in each."""
    (layers, experts), ranks = load_LE.shape, len(speed_G)
    count_E = _copies(load_LE.sum(0), slots * ranks, ranks) if copies else np.ones(experts, dtype=np.intp)
    each_LE = load_LE / count_E
    holders: list[list[int]] = [[] for _ in range(experts)]
    done_LG, left_G = np.zeros((layers, ranks)), np.full(ranks, slots)
    for expert in sorted(range(experts), key=lambda e: -each_LE[:, e].max(initial=0.0)):
        for _ in range(count_E[expert]):
            free = [g for g in range(ranks) if left_G[g] > 0 and g not in holders[expert]]
            if not free:
                break  # its other copies fill no slot that is left
            after = {g: ((done_LG[:, g] + each_LE[:, expert]) / speed_G[g]).max() for g in free}
            # Where nothing is known of an expert, it goes where there are most free slots.
            rank = min(free, key=lambda g: (after[g], -left_G[g], g))
            holders[expert].append(rank)
            done_LG[:, rank] += each_LE[:, expert]
            left_G[rank] -= 1
    return tuple(tuple(sorted(ranks)) for ranks in holders)


def _copies(load_E: Floats, slots: int, ranks: int) -> np.ndarray:
    """How many ranks have each expert: one more for the one with most load per copy, while slots are left."""
    count_E = np.ones(len(load_E), dtype=np.intp)
    waiting = [(-load, expert) for expert, load in enumerate(load_E)]
    heapq.heapify(waiting)
    for _ in range(slots - len(load_E)):
        while waiting and count_E[waiting[0][1]] >= ranks:
            heapq.heappop(waiting)
        if not waiting:
            break
        _, expert = heapq.heappop(waiting)
        count_E[expert] += 1
        heapq.heappush(waiting, (-load_E[expert] / count_E[expert], expert))
    return count_E
