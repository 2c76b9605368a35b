"""An independent check of a plan: whether it obeys CC1 to CC3, TC1 and TC2. It shares no code with the search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from grainline.plan.skip.problem import Route, SkipProblem

Times = Sequence[tuple[float, float]]
"""Begin and end of each visit: forwards along the route, the loss at the data node, backwards."""

SLACK = 1e-6


def check_routes(problem: SkipProblem, routes: Sequence[Route]) -> Iterator[str]:
    """What routes do that they may not: CC1 to CC3 and TC1, in words; nothing where they obey."""
    if len(routes) != len(problem.starts):
        yield f"{len(routes)} routes for {len(problem.starts)} micro-batches"
        return
    for agent, route in enumerate(routes):
        for words in _wrong_path(problem, agent, route):
            yield f"micro-batch {agent}: {words}"
    for stage, nodes in enumerate(problem.stages):
        visits = [node for route in routes for node in route if node in nodes]
        if len(visits) > len(nodes) * problem.slots:
            yield f"TC1: stage {stage} takes {len(nodes) * problem.slots} micro-batches and gets {len(visits)}"
        for node in nodes:
            if visits.count(node) > problem.slots:
                yield f"TC1: node {node} has {problem.slots} slots and gets {visits.count(node)} micro-batches"


def _wrong_path(problem: SkipProblem, agent: int, route: Route) -> Iterator[str]:
    stages = []
    for node in route:
        serving = [stage for stage, nodes in enumerate(problem.stages) if node in nodes]
        if len(serving) != 1:
            yield f"node {node} serves {len(serving)} stages"
            return
        stages += serving
    if route[0] != problem.starts[agent]:
        yield f"CC1: starts at node {route[0]}, not at its data node {problem.starts[agent]}"
    if 0 in stages[1:]:
        yield "CC1: comes to stage 0 on its way"
    if len(route) != problem.path_length:
        yield f"CC3: visits {len(route)} stages, not {problem.path_length}"
    if len(set(stages)) < len(stages):
        yield f"CC2: visits a stage twice: {stages}"
    back = []
    for i, stage in enumerate(stages[1:], 1):
        furthest = max(stages[:i])
        if stage > furthest + problem.max_jump:
            yield f"CC2: jumps from stage {furthest} to {stage}"
        if stage < furthest:
            back.append(furthest - stage)
    if any(distance > 1 for distance in back):
        yield f"CC2: goes {max(back)} stages behind its frontier"
    if len(back) > problem.max_swaps or sum(back) > problem.max_back:
        yield f"CC2: {len(back)} swaps over {sum(back)} stages"
    for x, y in zip(route, (*route[1:], route[0]), strict=True):
        if max(problem.transfer_seconds[x][y], problem.transfer_seconds[y][x]) == float("inf"):
            yield f"there is no way between nodes {x} and {y}, there and back"


def check_times(problem: SkipProblem, routes: Sequence[Route], times: Sequence[Times]) -> Iterator[str]:
    """Whether visits come after what they need, and overlap with none at their node that they may not (TC2)."""
    every = []
    for agent, (route, mine) in enumerate(zip(routes, times, strict=True)):
        nodes = [*route, route[0], *reversed(route)]
        is_backward = [False] * (len(route) + 1) + [True] * len(route)
        if len(mine) != len(nodes):
            yield f"micro-batch {agent}: {len(mine)} times for {len(nodes)} visits"
            return
        ready = 0.0
        for i, ((begin, end), node) in enumerate(zip(mine, nodes, strict=True)):
            hop = problem.transfer_seconds[nodes[i - 1]][node] if i and nodes[i - 1] != node else 0.0
            if begin < ready + hop - SLACK:
                yield f"micro-batch {agent} is at node {node} at {begin}, and can't be before {ready + hop}"
            share = problem.backward_ratio if is_backward[i] else problem.loss_share if i == len(route) else 1.0
            if abs(end - begin - share * problem.forward_seconds[node]) > SLACK:
                yield f"micro-batch {agent} takes {end - begin} seconds at node {node}"
            every.append((node, begin, end, is_backward[i], agent))
            ready = end
    yield from _overlaps(every)


def _overlaps(every: Iterable[tuple[int, float, float, bool, int]]) -> Iterator[str]:
    ordered = sorted(every)
    for i, (node, begin, end, backward, agent) in enumerate(ordered):
        for other in ordered[i + 1 :]:
            if other[0] != node:
                break
            # Two backwards may overlap, as in the authors' check; a rank carries them out one after another.
            if other[1] < end - SLACK and begin < other[2] - SLACK and not (backward and other[3]):
                yield (
                    f"TC2: micro-batches {agent} and {other[4]} are both at node {node} "
                    f"from {max(begin, other[1]):g} s on"
                )
