"""`grainline simulate`: what a step of pipelined training would take on a cluster."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grainline.cli.arguments import Settings
from grainline.cli.simulate_plan import is_plan, simulate_plan
from grainline.cli.tell import write_timelines
from grainline.documents import GrainlineError, nearest

if TYPE_CHECKING:
    from rich.table import Table

    from grainline.schedule import Timeline
    from grainline.train.simulate import SimulatedStep

LINKS = 4  # told at most


def run(
    recipe: str | None = None,
    /,
    *,
    cluster: str | None = None,
    plan: Path | None = None,
    schedule: str | None = None,
    ranks: int | None = None,
    chunks: int | None = None,
    microbatches: int | None = None,
    cut: str | None = None,
    recompute: Literal["never", "always", "except_last"] | None = None,
    vocabulary: Literal["plain", "vocab1", "vocab2"] | None = None,
    offload: bool = False,
    set: Settings = (),
    compare: str | None = None,
    timeline: Path | None = None,
    draw: Path | None = None,
    trace: Path | None = None,
    save_plan: Path | None = None,
    jitter: float = 0.0,
    seed: int = 0,
    slow: Settings = (),
    json: bool = False,
) -> int:
    """Simulate a step of training in a pipeline: time, bubble, memory and traffic, and what binds it.

    Nothing is run. Devices' rates come from the cluster; each says where it is from, and which share of it is assumed
    to be reached. The recipe may be a model's folder, config.json or hub id as well. Schedules: see docs/schedules.md.

      grainline simulate recipe.toml --cluster "4xA100-80 + 4xA10G@25GbE" --schedule 1f1b
      grainline simulate recipe.toml --cluster cluster.toml --compare gpipe,1f1b,zb-h1 --draw steps.svg
      grainline simulate inclusionAI/Ling-mini-2.0 --cluster 8xH100 --ranks 4 --recompute always
      grainline simulate plan.toml --draw step.svg
      grainline simulate runs/x/recipe.toml --plan runs/x/plan.toml --timeline runs/x/timeline.json --draw both.svg

    Args:
        recipe: a recipe (.toml or .json), a plan that grainline plan train made, or a model: its config.json, its
            folder, or ORG/NAME on the hub
        cluster: a .toml or .json file, or shorthand such as 2x(8xH100)@NDR; default: this machine, measured
        plan: a plan to begin with; the options that follow override its [pipeline]
        schedule: the order of passes; default: 1f1b
        ranks: of the pipeline; default: one per accelerator of the cluster, or per core, but no more than layers
        chunks: stages per rank, for schedules that have several
        microbatches: that a batch is cut into; default: 4 for each rank
        cut: cells of each stage, such as 4,3,2; or auto (by time and memory, the default), or equal
        recompute: keep inputs of stages alone, and compute the rest again
        vocabulary: split embedding and output layer over all ranks, by one of two algorithms
        offload: keep activations in host memory until they are wanted
        set: one key of the recipe, as often as wanted
        compare: schedules with commas between, or all; a table, the best first
        timeline: of a step that was run (grainline train --timeline), held against; without a recipe it is told alone
        draw: write a picture (.svg or .png); of several timelines on one axis
        trace: write a trace for ui.perfetto.dev (.json)
        save_plan: write the plan with all that was decided (.toml or .json), for grainline train --plan
        jitter: noise of every action, as a standard deviation of its logarithm, e.g. 0.05
        seed: of the noise
        slow: a rank and how many times as long it takes, as in 2=1.3, as often as wanted
        json: print one JSON object, or a list with --compare
    """
    from grainline.documents import Plan
    from grainline.schedule import SCHEDULES, Timeline
    from grainline.train.simulate import disturbed, pipeline_tables, read_cluster, simulated_step

    measured = None if timeline is None else Timeline.load(timeline)
    if recipe is None:
        return _tell_measured(measured, draw, trace, json)
    if plan is None and is_plan(recipe):
        others = (schedule, ranks, chunks, microbatches, cut, recompute, vocabulary, compare, timeline, save_plan)
        if any(option is not None for option in others) or set or slow or jitter or offload:
            raise GrainlineError(f"{recipe} is a plan: edit it rather than overriding it, or simulate a recipe.")
        return simulate_plan(recipe, cluster, draw, trace, json)
    known, begun = read_cluster(cluster), Plan() if plan is None else Plan.load(plan)
    slower = _slow(slow)
    if compare is not None and (schedule is not None or trace is not None or save_plan is not None):
        raise GrainlineError("--compare: leave out --schedule, --trace and --save-plan, which are of one schedule.")
    names = [schedule] if compare is None else _names(compare, tuple(SCHEDULES))
    steps: list[SimulatedStep] = []
    refused: list[str] = []
    for name in names:
        tables = pipeline_tables(
            schedule=name,
            ranks=ranks,
            chunks=chunks,
            microbatches=microbatches,
            cut=_cut(cut),
            recompute=recompute,
            vocabulary=vocabulary,
            offload=offload or None,
        )
        try:
            step = simulated_step(begun, tables, recipe, known, set)
        except GrainlineError as error:
            if len(names) == 1:
                raise
            refused.append(f"{name}: {error}")
            continue
        steps.append(disturbed(step, jitter, seed, slower) if jitter or slower else step)
    if not steps:
        raise GrainlineError("\n".join(refused))
    steps.sort(key=lambda step: step.seconds)
    write_timelines([step.timeline for step in steps] + ([] if measured is None else [measured]), draw, trace)
    if save_plan is not None:
        begun.model_copy(update={"pipeline": steps[0].resolved.pipeline}).save(save_plan)
        print(f"The plan is in {save_plan}.", file=sys.stderr)
    if json:
        found = [step.as_dict() | ({} if measured is None else {"measured": _figures(measured)}) for step in steps]
        print(json_module.dumps(found if compare is not None else found[0], indent=2))
    elif compare is not None:
        _print_comparison(steps)
    else:
        _print_step(steps[0])
    if measured is not None and not json:
        _print_measured(measured, steps[0].timeline)
    for line in refused:
        print(line, file=sys.stderr)
    return 0


def _cut(text: str | None) -> str | tuple[int, ...] | None:
    """``4,3,2`` as numbers; words as they are, for the plan to judge."""
    if text is None or not text.replace(",", "").replace(" ", "").isdigit():
        return text
    return tuple(int(part) for part in text.split(",") if part.strip())


def _slow(said: Sequence[str]) -> dict[int, float]:
    found = {}
    for each in said:
        rank, _, factor = each.partition("=")
        try:
            found[int(rank)] = float(factor)
        except ValueError:
            raise GrainlineError(f"--slow {each}: write RANK=TIMES, as in --slow 2=1.3.") from None
    return found


def _names(compare: str, known: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in compare.split(",") if name.strip()]
    if not names:
        raise GrainlineError("--compare: name schedules with commas between, or say all.")
    for name in names:
        if name not in (*known, "all"):
            raise GrainlineError(f"--compare: there is no pipeline schedule '{name}'.{nearest(name, known)}")
    return list(known) if "all" in names else names


def _tell_measured(measured: Timeline | None, draw: Path | None, trace: Path | None, json: bool) -> int:
    """Of a step that was run, where there is nothing to simulate."""
    from grainline.schedule.views.summary import summary

    if measured is None:
        raise GrainlineError("Name a recipe or a model to simulate, or a step that was run: --timeline timeline.json.")
    write_timelines([measured], draw, trace)
    print(json_module.dumps(_figures(measured), indent=2) if json else summary(measured))
    return 0


def _figures(measured: Timeline) -> dict[str, object]:
    return {
        "schedule": measured.name,
        "seconds": measured.makespan,
        "bubble_fraction": measured.bubble_fraction,
        "bubble_overhead": measured.bubble_overhead,
        "busy_seconds": measured.busy_seconds().tolist(),
    }


def _print_measured(measured: Timeline, simulated: Timeline) -> None:
    from grainline._words import span
    from grainline.schedule.views.summary import summary

    off = simulated.makespan / measured.makespan - 1
    print(f"\nPasses of {span(simulated.makespan)} simulated, {span(measured.makespan)} {measured.how}: {off:+.1%}")
    print(summary(measured))


def _print_step(step: SimulatedStep) -> None:
    from rich.console import Console

    from grainline._progress import counts
    from grainline._words import count, percent, size, span
    from grainline.schedule.views.summary import critical_path

    console, found = Console(highlight=False, soft_wrap=True), step.resolved
    batch, timeline = found.batch, step.timeline
    each = "about " * (found.tokens % (batch.tokens * (found.pipeline.microbatches or 1) * found.replicas) > 0)
    console.print(
        f"{step.name} over {counts(len(found.seats), 'rank')}"
        f"{f', in {found.replicas} replicas' if found.replicas > 1 else ''}: "
        f"{counts(found.pipeline.microbatches or 1, 'micro-batch').replace('batchs', 'batches')} of {each}"
        f"{counts(batch.sequences, 'sequence')} × {batch.length:,} tokens, in {batch.compute}"
    )
    console.print(f"{span(step.seconds)} a step, {count(step.tokens_per_second)} tokens/s", style="bold")
    console.print(
        f"  passes {span(timeline.makespan)}, bubble {percent(timeline.bubble_fraction)} of all ranks' time; "
        f"update {span(found.update_seconds)}"
    )
    console.print(_ranks(step))
    rates = {link.name: link.bytes_per_second for link in found.network.links}
    busy = {name: moved / rates[name] / timeline.makespan for name, moved in timeline.link_bytes.items() if moved}
    links = sorted(busy, key=lambda name: -busy[name])
    if links:
        told = "; ".join(f"{name} {size(timeline.link_bytes[name])}, {percent(busy[name])}" for name in links[:LINKS])
        more = f"; {len(links) - LINKS} more" if len(links) > LINKS else ""
        console.print(f"Links, the busiest first: {told} of the time{more}")
    path = [f"{percent(s / timeline.makespan)} {what}" for what, s in critical_path(timeline).items()]
    console.print(f"What binds, along the critical path: {', '.join(path[:4])}")
    for speed in dict.fromkeys(f"{seat.device.type.name}: {seat.speed.origin}" for seat in found.seats):
        console.print(speed, style="dim")


def _ranks(step: SimulatedStep) -> Table:
    from rich.table import Table

    from grainline._words import percent, size

    found, busy = step.resolved, step.timeline.busy_seconds()
    table = Table(box=None, pad_edge=False)
    for title in ("rank", "device", "cells", "busy", "peak memory", "of"):
        table.add_column(title, justify="right" if title in ("busy", "peak memory", "of") else "left")
    for rank, seat in enumerate(found.seats):
        spans = []
        for stage in found.bare.stages_of(rank):
            cells = [cell.name for cell in found.stages[stage]]
            spans.append("none" if not cells else cells[0] if len(cells) == 1 else f"{cells[0]} … {cells[-1]}")
        capacity = found.capacity_bytes.get(rank)
        table.add_row(
            str(rank),
            seat.about,
            ", ".join(spans),
            percent(float(busy[rank]) / (step.timeline.makespan or 1.0)),
            size(step.peak_bytes[rank]),
            "?" if capacity is None else size(capacity),
        )
    return table


def _print_comparison(steps: Sequence[SimulatedStep]) -> None:
    from rich.console import Console
    from rich.table import Table

    from grainline._words import count, percent, size, span

    table = Table(box=None, pad_edge=False)
    for title in ("schedule", "step", "against the best", "tokens/s", "bubble", "largest peak"):
        table.add_column(title, justify="left" if title == "schedule" else "right")
    for step in steps:
        table.add_row(
            step.name,
            span(step.seconds),
            f"× {step.seconds / steps[0].seconds:.3f}",
            count(step.tokens_per_second),
            percent(step.timeline.bubble_fraction),
            size(max(step.peak_bytes)),
        )
    Console(highlight=False).print(table)
