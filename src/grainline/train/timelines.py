"""What the ranks of a pipeline did and when in one step, kept in the run's folder in every form that is looked at."""

from __future__ import annotations

from pathlib import Path

from grainline._words import percent, span
from grainline.documents import GrainlineError, Plan, Recipe
from grainline.schedule import Timeline
from grainline.schedule.views.draw import draw
from grainline.schedule.views.perfetto import save as save_trace
from grainline.schedule.views.summary import binding


def check_timeline(step: int, recipe: Recipe, plan: Plan) -> None:
    """Raise GrainlineError if step `step` has no timeline to keep."""
    if plan.pipeline is None:
        raise GrainlineError(
            f"--timeline {step}: only the ranks of a pipeline have a timeline. Add --pipeline RANKS, or leave it out."
        )
    if not 1 <= step <= recipe.training.steps:
        raise GrainlineError(
            f"--timeline {step}: there is no such step. Name one from 1 to {recipe.training.steps} (training.steps)."
        )


def keep(timeline: Timeline, step: int, path: Path) -> str:
    """Write it to `path` (.json), with a picture and a Perfetto trace beside it; returns what to tell of it."""
    picture, trace = path.with_suffix(".svg"), path.with_suffix(".trace.json")
    timeline.save(path)
    draw(timeline, picture, messages=True)
    save_trace(timeline, trace)
    return (
        f"Step {step}, measured: passes of {span(timeline.makespan)}, bubble {percent(timeline.bubble_fraction)} of "
        f"all ranks' time. What binds: {binding(timeline)}. The timeline is in {path}, drawn in {picture.name}; "
        f"{trace.name} is for ui.perfetto.dev."
    )
