"""`grainline plan compare`: what was predicted of a plan against what its run took."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from grainline.plan.calibration import Compared
    from grainline.schedule import Timeline
    from grainline.train.simulate import SimulatedStep


def run(
    plan: Path,
    folder: Path,
    /,
    *,
    cluster: str | None = None,
    json: bool = False,
    html: Path | None = None,
) -> int:
    """Hold a pipeline's run against its prediction: each pass of each stage, each way between ranks, the step.

    The run must have kept a step's timeline. Predictions come from the cluster's rates; grainline plan calibrate
    corrects these by the same run.

      grainline train recipe.toml --pipeline 2 --timeline 5 --out runs/x
      grainline plan compare runs/x/plan.toml runs/x --cluster cluster.toml

    Args:
        plan: a plan with a pipeline, such as the run's own
        folder: the run's
        cluster: that it is predicted for (.toml, .json, or shorthand); default: this machine, measured
        json: print one JSON object
        html: write a page, with both timelines
    """
    from grainline._report import Report, Section, Table
    from grainline._words import percent, span
    from grainline.cli.tell import tell
    from grainline.plan.calibration import compare
    from grainline.schedule.views.draw import compare as drawn

    step, real = predicted_and_real(folder, cluster, plan)
    found = compare(step.timeline, real)
    lead = (
        f"{span(found.predicted_seconds)} were predicted for the passes of a step, and {span(found.real_seconds)} were "
        f"taken: {found.error:+.1%}. Of passes the median error is {percent(found.median_error)}."
    )
    rows = tuple(
        (
            str(p.rank),
            step.resolved.seats[p.rank].about,
            str(p.stage),
            p.kind.value,
            span(p.predicted_seconds),
            span(p.real_seconds),
            f"{p.error:+.1%}",
        )
        for p in found.passes
    )
    passes = Table(("rank", "device", "stage", "pass", "predicted", "real", "error"), rows, ("device", "pass"))
    ways = tuple(
        (f"{w.sender} → {w.receiver}", str(w.count), span(w.predicted_seconds), span(w.real_seconds))
        for w in found.ways
    )
    sections = [Section("Passes, medians over micro-batches", table=passes)]
    if ways:
        told = ("Real ones hold the time in which the receiver wasn't ready.",)
        sections.append(Section("Messages", told, Table(("ranks", "messages", "predicted", "real"), ways)))
    sections.append(Section("Both steps", svg=drawn((real, step.timeline))))
    tell(Report(f"{folder}, predicted and real", lead, tuple(sections)), _data(found), json=json, html=html)
    return 0


def predicted_and_real(folder: Path, cluster: str | None, plan: Path) -> tuple[SimulatedStep, Timeline]:
    """A run's step simulated for a cluster, and as it was measured. Raises GrainlineError for what isn't there."""
    from grainline.documents import Plan
    from grainline.schedule import Timeline
    from grainline.train.simulate import read_cluster, simulated_step

    timeline, recipe = folder / "timeline.json", folder / "recipe.toml"
    if not recipe.is_file():
        raise GrainlineError(f"{folder}: is no run's folder: it has no recipe.toml.")
    if not timeline.is_file():
        raise GrainlineError(
            f"{folder}: it kept no timeline. Train with --pipeline RANKS --timeline STEP, a few steps are enough."
        )
    document = Plan.load(plan)
    if document.pipeline is None:
        raise GrainlineError(f"{plan}: has no [pipeline], and so no passes to compare.")
    return simulated_step(document, {}, recipe, read_cluster(cluster)), Timeline.load(timeline)


def _data(found: Compared) -> dict[str, object]:
    return {
        "predicted_seconds": found.predicted_seconds,
        "real_seconds": found.real_seconds,
        "error": found.error,
        "median_error_of_passes": found.median_error,
        "passes": [{**asdict(p), "kind": p.kind.value, "error": p.error} for p in found.passes],
        "ways": [asdict(w) for w in found.ways],
    }
