"""`grainline plan skip`: a partial pipeline, whose micro-batches each take their own path through the stages."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from grainline.cli.arguments import Settings
from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grainline.hardware.topology import Topology
    from grainline.plan.skip.plan import SkipPlan


def run(
    recipe: str,
    /,
    *,
    cluster: str | None = None,
    stages: int = 6,
    nodes_per_stage: tuple[int, ...] = (),
    path_length: int = 4,
    slots: int = 3,
    microbatches: int | None = None,
    sequences: int = 1,
    hop_seconds: float = 0.0,
    no_tc2: bool = False,
    budget: float = 60.0,
    seed: int = 0,
    set: Settings = (),
    compare: bool = False,
    save_plan: Path | None = None,
    json: bool = False,
) -> int:
    """Plan a partial pipeline (SkipPipe): which node serves which stage, and the path of every micro-batch.

    Micro-batches skip stages, change their order within bounds, and choose among the nodes of a stage, so that slow
    links are crossed less and nodes don't queue. See docs/skippipe.md for what that does to a model.

      grainline plan skip recipe.toml --cluster sites.toml --stages 6 --path-length 4 --compare
      grainline plan skip recipe.toml --cluster sites.toml --nodes-per-stage 5 3 3 3 3 3 --save-plan plan.toml

    Args:
        recipe: a recipe (.toml or .json), whose model and sequence length count
        cluster: a .toml or .json file, or shorthand such as 8xA10G@1GbE; default: this machine
        stages: of as many blocks each; head and loss go with the data nodes
        nodes_per_stage: how many nodes serve each; the first are the data nodes; default: shared out
        path_length: stages that each micro-batch visits, the data node's included
        slots: micro-batches that a node can hold
        microbatches: of a step; default: as many as fit at once
        sequences: of a micro-batch
        hop_seconds: what every message takes besides its link, such as copies to host memory: measure it
        no_tc2: let micro-batches collide
        budget: seconds for the search
        seed: of placement and search
        set: one key of the recipe, as often as wanted
        compare: full pipelines, random paths, and paths chosen with and without regard to collisions
        save_plan: write the plan (.toml or .json), for grainline train --plan
        json: print one JSON object, or a list with --compare
    """
    from grainline.hardware.topology import topology
    from grainline.plan.memory import MicroBatch
    from grainline.plan.seats import compute_dtype
    from grainline.plan.skip.plan import METHODS, plan_by, planned_at_once, problem_for, setting_for, shared_out
    from grainline.plan.skip.work import work_of
    from grainline.train.documents import read_recipe
    from grainline.train.foresee import foreseen_model
    from grainline.train.simulate import read_cluster

    if compare and (save_plan is not None or no_tc2):
        raise GrainlineError("--compare: leave out --save-plan and --no-tc2, which are of one plan.")
    known = read_recipe(recipe, set)
    wires = topology(read_cluster(cluster))
    batch = MicroBatch(
        sequences,
        known.data.sequence_length,
        compute_dtype(known, wires.devices),
        mtp_every=known.loss.mtp_every,
    )
    work, cut = work_of(foreseen_model(known), wires, batch, stages, hop_seconds=hop_seconds)
    sizes = nodes_per_stage or shared_out(len(wires.devices), stages)
    if len(sizes) != stages:
        raise GrainlineError(f"--nodes-per-stage names {len(sizes)} stages, and --stages says {stages}.")
    problem = problem_for(wires, work, sizes, path_length, slots, seed=seed)
    setting = setting_for(wires, work, problem)
    count = planned_at_once(sizes, path_length, slots) if microbatches is None else microbatches
    methods = METHODS if compare else ("unaware" if no_tc2 else "aware",)
    plans = {method: plan_by(method, problem, count, setting=setting, budget_s=budget, seed=seed) for method in methods}
    if save_plan is not None:
        plans[methods[0]].to_plan(cut).save(save_plan)
        print(f"The plan is in {save_plan}.", file=sys.stderr)
    if json:
        found = [_as_dict(method, plan) for method, plan in plans.items()]
        print(json_module.dumps(found if compare else found[0], indent=2))
    elif compare:
        _print_comparison(plans)
    else:
        _print_plan(plans[methods[0]], wires)
    return 0


def _as_dict(method: str, plan: SkipPlan) -> dict[str, object]:
    answer = plan.answer
    return {
        "method": method,
        "seconds": plan.expected_seconds,
        "microbatches": plan.microbatches,
        "placement": plan.placement,
        "paths": plan.paths,
        "longest_seconds": None if answer is None else answer.longest_seconds,
        "bound_seconds": None if answer is None else answer.bound_seconds,
    }


def _print_comparison(plans: dict[str, SkipPlan]) -> None:
    from rich.console import Console
    from rich.table import Table

    words = {
        "full": "all stages, in order",
        "random": "random paths within the constraints",
        "unaware": "chosen paths, which may collide",
        "aware": "chosen paths (SkipPipe)",
    }
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("seconds of a step", justify="right")
    table.add_column("of full", justify="right")
    whole = plans["full"].expected_seconds
    for method, plan in plans.items():
        table.add_row(words[method], f"{plan.expected_seconds:.4g}", f"{plan.expected_seconds / whole:.0%}")
    Console().print(table)


def _print_plan(plan: SkipPlan, wires: Topology) -> None:
    def named(nodes: Sequence[int]) -> str:
        return ", ".join(f"{node} ({wires.devices[node].node})" for node in nodes)

    print(f"{plan.microbatches} micro-batches in {plan.expected_seconds:.4g} s, simulated.")
    answer = plan.answer
    if answer is not None and answer.gap is not None:
        print(
            f"Of a round, the last is back after {answer.longest_seconds:.4g} s; no plan has less than "
            f"{answer.bound_seconds:.4g} s ({answer.gap:.0%} below)."
        )
    for stage, nodes in enumerate(plan.placement):
        print(f"stage {stage}: {named(nodes)}")
    for m, route in enumerate(plan.routes):
        print(f"micro-batch {m}: {' → '.join(map(str, route))}")
