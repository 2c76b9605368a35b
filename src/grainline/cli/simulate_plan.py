"""`grainline simulate plan.toml`: a step of a plan that `grainline plan train` made, or that somebody has edited."""

from __future__ import annotations

import sys
from pathlib import Path

from grainline.documents import DocumentError, GrainlineError, Plan, read_tables

TABLES = {"layout", "pipeline", "made_for"}


def is_plan(path: str) -> bool:
    """Whether a file's tables are a plan's."""
    if Path(path).suffix not in (".toml", ".json") or not Path(path).is_file():
        return False
    try:
        found = read_tables(Path(path)).keys()
    except DocumentError:
        return False  # whoever reads it as something else says what is wrong
    return bool(TABLES & found) and "model" not in found


def simulate_plan(path: str, cluster: str | None, draw: Path | None, trace: Path | None, json: bool) -> int:
    """Tell it as `grainline plan train` does; the exit code is 1 where it doesn't fit into memory."""
    from grainline._words import size
    from grainline.cli.plan_train import problem_of
    from grainline.cli.tell import tell, write_timelines
    from grainline.cli.train_report import data, report
    from grainline.plan.layouts.planned import cells_of_problem, to_strategy
    from grainline.plan.layouts.played import play
    from grainline.plan.layouts.searches import Found, Ranked
    from grainline.plan.layouts.searches.frame import on
    from grainline.plan.layouts.step import evaluate

    plan = Plan.load(path)
    made = plan.made_for
    if made is None:
        raise GrainlineError(
            f"{path}: it doesn't say what it was made for. Simulate a recipe with it: grainline simulate recipe.toml "
            f"--plan {path}."
        )
    where = cluster or made.cluster or None
    problem = problem_of(made.model, where, str(made.batch_tokens), made.sequence_length, made.engine, made.dtype)
    strategy = to_strategy(plan, problem.batch_sequences)
    if strategy.ranks > len(problem.fleet):
        raise GrainlineError(f"{path}: it has {strategy.ranks} ranks, and the cluster {len(problem.fleet)} devices.")
    devices = plan.layout.devices
    if devices:
        if len(devices) != strategy.ranks:
            raise GrainlineError(f"layout.devices names {len(devices)} devices, for {strategy.ranks} ranks.")
        problem = on(problem, problem.fleet.seated(devices))
    cut = plan.pipeline.cut if plan.pipeline is not None and isinstance(plan.pipeline.cut, tuple) else None
    estimate = evaluate(problem, strategy, None if cut is None else cells_of_problem(problem.cells, cut))
    played = play(problem, Ranked(estimate, problem.fleet))
    if played.timeline is not None:
        write_timelines((played.timeline,), draw, trace)
    elif draw is not None or trace is not None:
        print("The step has too many passes to be played: nothing is drawn.", file=sys.stderr)
    found = Found((Ranked(estimate, problem.fleet),), 1, int(not estimate.fits), None, True)
    answer = report(made.model, problem, found, (played,), None, None)
    tell(answer, data(problem, found, (played,), None, None), json=json, html=None)
    if not estimate.fits:
        short = max(m.total - c for m, c in zip(estimate.memory, estimate.capacity, strict=True))
        print(f"It doesn't fit: the fullest rank lacks {size(short)}.", file=sys.stderr)
        return 1
    return 0
