"""`grainline train`: train what a recipe asks for."""

from __future__ import annotations

import json as json_module
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from grainline.cli.arguments import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from grainline.documents import Plan
    from grainline.train import DryRun


def run(
    recipe: Path,
    /,
    *,
    plan: Path | None = None,
    pipeline: int | None = None,
    schedule: str | None = None,
    cut: str | None = None,
    microbatches: int | None = None,
    timeline: int | None = None,
    routing_trace: Path | None = None,
    out: Path | None = None,
    set: Settings = (),
    data: Path | None = None,
    dry_run: bool = False,
    no_resume: bool = False,
    json: bool = False,
) -> int:
    """Train what a recipe asks for; stop and resume at any time.

    Ctrl-C finishes the step and saves. The same command goes on from there, and after a crash from the last checkpoint.
    Under torchrun the same command trains on several processes; those of a pipeline it starts by itself where torchrun
    didn't. Recipes to begin with are in the repository's examples/recipes, and the quickstart leaves its own in its
    folder.

      grainline train recipe.toml --set learning_rate.peak=0.002 --dry-run
      torchrun --nproc-per-node 2 -m grainline train recipe.toml
      grainline train recipe.toml --pipeline 2 --schedule zb-h1

    Args:
        recipe: the recipe, a .toml or .json file
        plan: how the run is laid out on the hardware; default: decided from the machine
        pipeline: ranks of a pipeline: short for a plan with one, which is printed
        schedule: the pipeline's schedule; default: 1f1b
        cut: cells of each of its stages, such as 4,3; or auto (by cost, the default), or equal
        microbatches: that it cuts a batch into; default: 4 for each rank
        timeline: a step of a pipeline whose measured timeline is kept, drawn and traced, in the run's folder
        routing_trace: keep which experts held-out text chose in the end (.npz), for grainline plan place
        out: folder of the run; default: runs/ and the recipe's name
        set: one key of the recipe, as often as wanted
        data: folder for tokenizer and packed text that several runs share; default: in the run's folder
        dry_run: say what memory, disk and time it will take, and start nothing
        no_resume: delete what an earlier run left in the folder, and start anew
        json: print the result, or the dry run's figures, as one JSON object
    """
    from grainline.documents import GrainlineError, Recipe

    if routing_trace is not None and routing_trace.suffix != ".npz":
        raise GrainlineError(f"--routing-trace {routing_trace}: name a file that ends in .npz.")
    wanted = Recipe.load(recipe, set)
    if routing_trace is not None:
        from grainline.train.foresee import foreseen_model

        if foreseen_model(wanted).moe is None:
            raise GrainlineError("--routing-trace: the model has no experts, so that there is no routing to keep.")
    folder = out if out is not None else Path("runs") / wanted.name
    options = {"schedule": schedule, "cut": cut, "microbatches": microbatches}
    layout = _plan(plan, pipeline, {key: value for key, value in options.items() if value is not None})
    if pipeline is not None and _speaks():
        print(tomli_w.dumps({"pipeline": layout.tables()["pipeline"]}), file=sys.stderr)
    if dry_run:
        from grainline.train import dry_run as estimate

        found = estimate(wanted, layout, out=folder, data=data)
        if _speaks():
            _print_dry_run(found, json)
        return 1 if found.shortages else 0
    if layout.pipeline is not None and "WORLD_SIZE" not in os.environ:
        from grainline.cli.spawn import run_ranks

        with tempfile.TemporaryDirectory() as scratch:
            written = Path(scratch) / "plan.toml"
            layout.save(written)
            same = ["train", str(recipe), "--plan", str(written), "--out", str(folder)]
            same += [word for assignment in set for word in ("--set", assignment)]
            same += [] if data is None else ["--data", str(data)]
            same += [] if timeline is None else ["--timeline", str(timeline)]
            same += [] if routing_trace is None else ["--routing-trace", str(routing_trace)]
            same += ["--no-resume"] * no_resume + ["--json"] * json
            return run_ranks(same, layout.pipeline.ranks * layout.layout.data_parallel)
    from grainline.train import train

    result = train(wanted, layout, out=folder, resume=not no_resume, data=data, timeline=timeline)
    if routing_trace is not None and _speaks():
        from grainline.train.routing import routing_of_run

        routing_of_run(result, data).save(routing_trace)
    if json and _speaks():
        print(json_module.dumps(result.as_dict(), indent=2))
    return 0


def _plan(file: Path | None, ranks: int | None, options: dict[str, Any]) -> Plan:
    """The plan of a file, with a pipeline of so many ranks if that was asked for."""
    from grainline.documents import GrainlineError, Plan

    plan = Plan() if file is None else Plan.load(file)
    if ranks is None:
        if options:
            raise GrainlineError(f"--{next(iter(options))} goes with --pipeline RANKS.")
        return plan
    if plan.pipeline is not None:
        raise GrainlineError(f"{file}: has a [pipeline] already; leave out --pipeline, or take it out of the file.")
    cut = options.get("cut", "auto")
    if cut not in ("auto", "equal"):
        try:
            options |= {"cut": [int(cells) for cells in cut.split(",")]}
        except ValueError:
            raise GrainlineError(f"--cut {cut}: auto, equal, or how many cells each stage has, such as 4,3.") from None
    return Plan.parse(plan.tables() | {"pipeline": {"ranks": ranks, **options}}, where="--pipeline")


def _speaks() -> bool:
    """Whether this process answers for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _print_dry_run(found: DryRun, json: bool) -> None:
    if json:
        print(json_module.dumps(found.as_dict(), indent=2))
        return
    from rich.console import Console

    console = Console()
    console.print(_table(found))
    for shortage in found.shortages:
        console.print(f"[red]not enough {shortage}[/red]")


def _table(found: DryRun) -> Table:
    from rich.table import Table

    from grainline._progress import counts, duration
    from grainline.train.estimate import UTILISATION

    need, execution = found.estimate, found.plan.execution
    stages = 1 if found.plan.pipeline is None else found.plan.pipeline.ranks
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim", overflow="fold")
    table.add_row("parameters", f"{need.parameters / 1e6:,.1f} M", f"{need.active_parameters / 1e6:,.1f} M active")
    if need.experts is not None:
        work = need.experts
        sent = f"{work.sent_bytes:,.0f} B to experts elsewhere and back"
        of_plain = (
            f"{work.cost:.3g} of a plain layer's, {work.sent_share:.3g} of its bytes: " if work.sent_share != 1 else ""
        )
        table.add_row("FFNs per token", f"{work.ffns_per_token:.3g}", of_plain + sent)
    table.add_row("tokens", f"{need.tokens / 1e6:,.1f} M", f"{need.flops:.3g} FLOPs")
    table.add_row(
        "computed",
        found.compute,
        f"{execution.device}, {counts(execution.threads or 1, 'thread')}, "
        f"{counts(execution.micro_batch_sequences or 1, 'sequence')} per pass, "
        f"{counts(found.plan.layout.data_parallel * stages, 'rank')}",
    )
    memory, disk = need.memory, need.disk
    table.add_row("memory per rank", _size(memory.total), f"of {_size(found.free_memory_bytes)} free")
    for name in ("parameters", "gradients", "optimizer", "activations", "working"):
        table.add_row(f"  {name}", _size(getattr(memory, name)), "")
    table.add_row("disk", _size(disk.total), f"of {_size(found.free_disk_bytes)} free")
    for name in ("checkpoints", "weights", "data"):
        table.add_row(f"  {name}", _size(getattr(disk, name)), "")
    if need.seconds is None or need.tokens_per_second is None:
        table.add_row("time", "?", "no matmul rate was measured here: grainline hardware measure")
    else:
        how = "measured" if found.speed_is_measured else f"taken as {UTILISATION:.0%} of the matmul rate"
        table.add_row("time", duration(need.seconds), f"{need.tokens_per_second:,.0f} tokens/s, {how}")
    return table


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
