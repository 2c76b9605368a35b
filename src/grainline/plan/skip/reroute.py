"""A node is lost: micro-batches that would have passed it go through another one of its stage, or skip the stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grainline.documents import GrainlineError
from grainline.plan.skip.prioritised import prioritised
from grainline.plan.skip.problem import Route, SkipProblem
from grainline.plan.skip.walk import walk


def reroute(problem: SkipProblem, routes: Sequence[Route], lost: int) -> tuple[SkipProblem, tuple[Route, ...]]:
    """The problem without a node, and routes for it: those that didn't pass it stay as they are.

    Where quotas were tight there is less room than before; then fewer micro-batches are under way at once, those that
    passed the node first to go. So are those that started at it: what they would have read is read by others. Raises
    GrainlineError where the node was its stage's only one: its weights are gone.
    """
    if lost not in range(problem.nodes) or problem.stage_of[lost] < 0:
        raise GrainlineError(f"node {lost} serves no stage: nothing depends on it")
    stage = problem.stage_of[lost]
    if problem.stages[stage] == (lost,):
        raise GrainlineError(
            f"node {lost} was the only one to serve stage {stage}: give the stage to another node from a checkpoint"
        )
    stages = tuple(tuple(node for node in nodes if node != lost) for nodes in problem.stages)
    stay = [route for route in routes if lost not in route]
    moved = [route for route in routes if lost in route[1:]]
    for count in range(len(moved), -1, -1):
        starts = tuple(route[0] for route in (*stay, *moved[:count]))
        if not starts:
            break
        try:
            left = replace(problem, stages=stages, starts=starts, release_seconds=())
        except GrainlineError:  # so many don't fit
            continue
        taken = [walk(left, agent, route) for agent, route in enumerate(stay)]
        walks = prioritised(left, range(len(stay), len(starts)), taken=taken)
        if walks is not None:
            return left, tuple(one.route for one in walks)
    raise GrainlineError(f"without node {lost} no micro-batch finds a path of {problem.path_length} stages")
