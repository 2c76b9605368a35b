"""The learning rate's course: pure functions from a step to a share of the peak."""

from __future__ import annotations

import math

from grainline.documents.recipe import LearningRate


def factor(recipe: LearningRate, step: int, steps: int) -> float:
    """Share of the peak rate that step `step` (1 to `steps`) learns at.

    The warm-up is linear and reaches the peak at its last step. wsd then stays, and decays over the last
    `decay_fraction` of the steps; cosine decays from the end of the warm-up; wsm and constant stay to the end.
    """
    if step <= recipe.warmup_steps:
        return step / recipe.warmup_steps
    if recipe.schedule in ("wsm", "constant"):
        return 1.0
    if recipe.schedule == "cosine":
        return decay(recipe, "cosine", step - recipe.warmup_steps, steps - recipe.warmup_steps)
    length = decay_steps(recipe, steps)
    return decay(recipe, recipe.decay_shape, step - (steps - length), length)


def decay_steps(recipe: LearningRate, steps: int) -> int:
    """Steps at the end that decay (wsd) or span the merged checkpoints (wsm); they never reach into the warm-up."""
    return min(max(1, round(recipe.decay_fraction * steps)), steps - recipe.warmup_steps)


def decay(recipe: LearningRate, shape: str, step: int, length: int) -> float:
    """Factor at step `step` of a decay of `length` steps; 1 before it starts (step ≤ 0).

    The course runs from 1 at step 0 to `final` at step length + 1, so that no step is spent on a rate of zero, and a
    linear decay over k steps is exactly the uniform mean of k + 1 checkpoints (arXiv 2507.17634, section 3).
    """
    share = max(0, step) / (length + 1)
    curve = {"linear": 1 - share, "sqrt": 1 - math.sqrt(share), "cosine": 0.5 * (1 + math.cos(math.pi * share))}
    return recipe.final + (1 - recipe.final) * curve[shape]


def merge_steps(recipe: LearningRate, steps: int) -> tuple[int, ...]:
    """wsm: the steps whose checkpoints are merged, evenly over the window, its start and the last step included.

    A window over the whole run starts at step 1: there is no checkpoint of weights that haven't learned anything.
    """
    if recipe.schedule != "wsm":
        return ()
    window = min(decay_steps(recipe, steps), steps - 1)
    intervals = min(recipe.merge_checkpoints - 1, window)
    if intervals == 0:
        return (steps,)
    return tuple(steps - window + round(j * window / intervals) for j in range(intervals + 1))
