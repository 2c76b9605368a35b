"""The mean of a stage's gradient where not every micro-batch visits it (partial pipelines, arXiv 2502.19913)."""

from __future__ import annotations

from collections.abc import Mapping

from grainline.parallel.pipeline.reduce import SharedGradients, module_of
from grainline.schedule import Schedule


def visited_shares(schedule: Schedule, stages_by_module: Mapping[str, frozenset[int]]) -> dict[str, float]:
    """By module: the share of micro-batches whose path has a stage that uses it; 1 of what belongs to no stage."""
    found = {}
    for module, stages in stages_by_module.items():
        visits = sum(any(hop.stage in stages for hop in path) for path in schedule.paths)
        found[module] = visits / schedule.microbatches if min(stages, default=-1) >= 0 else 1.0
    return found


def mean_over_visits(schedule: Schedule, shared: SharedGradients) -> None:
    """After a step: from sums over the tokens of the whole step to means over those that came by, in place.

    The loss is a sum over micro-batches, divided by all of their tokens, so that a stage that a share q of them visited
    has q times its mean gradient. Micro-batches count alike. Where none came by the gradient is none, and the optimiser
    moves nothing. Gradients must have been zero or none before the step.
    """
    shares = visited_shares(schedule, shared.stages)
    for name, parameter in shared.parameters.items():
        share = shares[module_of(name)]
        if share == 0:
            parameter.grad = None
        elif share < 1 and parameter.grad is not None:
            parameter.grad /= share
