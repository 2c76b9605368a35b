"""What SkipPipe's routes are held against: full pipelines, and random ones of the same length within the quotas."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from grainline.documents import GrainlineError
from grainline.plan.skip.placement import pairing
from grainline.plan.skip.prioritised import leaves_enough
from grainline.plan.skip.problem import Route, SkipProblem

ATTEMPTS = 1000


def full_pipelines(problem: SkipProblem) -> tuple[SkipProblem, tuple[Route, ...]]:
    """DT-FM's pipelines over all stages, side by side: nodes of neighbouring stages are paired as well as can be.

    There are as many pipelines as the smallest stage has nodes, each with as many micro-batches at once as slots. The
    problem that comes back differs from the given one in path length and starts.
    """
    hop = np.array(problem.transfer_seconds)
    hop = np.maximum(hop, hop.T)
    count = min(map(len, problem.stages))
    lines: list[list[int]] = []
    for stage in problem.stages[1:]:
        ends = [line[-1] for line in lines] if lines else list(problem.stages[0])
        pairs = pairing(hop[np.ix_(ends, stage)])[1]
        lines = [[*(lines[i] if lines else [ends[i]]), stage[j]] for i, j in pairs]
    kept = sorted(lines, key=lambda line: sum(hop[x, y] for x, y in pairwise(line)))[:count]
    routes = tuple(tuple(line) for _ in range(problem.slots) for line in kept)
    starts = tuple(route[0] for route in routes)
    return replace(problem, path_length=len(problem.stages), starts=starts, release_seconds=()), routes


def random_routes(problem: SkipProblem, seed: int) -> tuple[Route, ...]:
    """Routes drawn at random from those that CC1 to CC3 allow, within the quotas of TC1.

    Raises GrainlineError where a thousand attempts come to no end: quotas that can hardly be met.
    """
    rng = random.Random(seed)
    orders = problem.stage_orders()
    for _ in range(ATTEMPTS):
        found = _draw(problem, orders, rng)
        if found is not None:
            return found
    raise GrainlineError(
        f"no {problem.agents} random paths of {problem.path_length} stages fit into the slots in {ATTEMPTS} attempts: "
        "add slots, or shorten the paths"
    )


def _draw(problem: SkipProblem, orders: Sequence[tuple[int, ...]], rng: random.Random) -> tuple[Route, ...] | None:
    used: Counter[int] = Counter()
    agents = rng.sample(range(problem.agents), problem.agents)
    found: dict[int, Route] = {}
    for done, agent in enumerate(agents):
        for order in rng.sample(orders, len(orders)):
            free = [[n for n in problem.stages[s] if used[n] < problem.slots] for s in order[1:]]
            if not all(free):
                continue
            route = (problem.starts[agent], *(rng.choice(nodes) for nodes in free))
            hops = zip(route, (*route[1:], route[0]), strict=True)
            if any(problem.transfer_seconds[x][y] + problem.transfer_seconds[y][x] == float("inf") for x, y in hops):
                continue
            if leaves_enough(problem, used, route, len(agents) - done - 1):
                found[agent] = route
                used.update(route[1:])
                break
        else:
            return None
    return tuple(found[agent] for agent in range(problem.agents))
