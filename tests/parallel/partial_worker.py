"""What each of four ranks of a partial pipeline runs: started by test_partial.py, with a folder for what it finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pipeline_cases import LOSS, MODELS, Case
from pipeline_worker import alone, nudge

from grainline.documents import Plan, Recipe
from grainline.models.build import build
from grainline.models.cells import cell_names
from grainline.parallel import join_ranks
from grainline.parallel.pipeline import Connection, Grid
from grainline.parallel.pipeline.connect import cells_by_stage
from grainline.parallel.pipeline.visits import mean_over_visits
from grainline.plan.skip.plan import plan_by
from grainline.plan.skip.problem import SkipProblem
from grainline.schedule import add_messages
from grainline.schedule.members.partial import LOOKAHEAD, partial
from grainline.schedule.schedule import Hop
from grainline.train import train

CASES = {
    # Model, cells of each stage and of the head's, path length, and how gradients are averaged.
    "a stage skipped": ("dense-tied", (2, 1, 2, 1), 2, "visits"),
    "sums": ("dense-tied", (2, 1, 2, 1), 2, "all"),
    "experts, and MTP at home": ("ling", (2, 1, 1, 3), 2, "visits"),
    "nothing skipped": ("ling", (2, 1, 1, 3), 3, "visits"),
}
MICROBATCHES = 6


def planned(length: int, cut: tuple[int, ...], *, swaps: int = 2) -> Plan:
    """Two data nodes, two nodes with a stage each: as a document, there and back."""
    hops = ((0.0, 0.5, 0.3, 0.2), (0.5, 0.0, 0.1, 0.4), (0.3, 0.1, 0.0, 0.2), (0.2, 0.4, 0.2, 0.0))
    problem = SkipProblem(
        ((0, 1), (2,), (3,)), (1.0, 1.2, 0.7, 0.9), hops, (0, 1, 0, 1), length, slots=4, max_swaps=swaps
    )
    plan = plan_by("aware", problem, MICROBATCHES, budget_s=5.0, tries=50)
    return Plan.parse(plan.to_plan(cut).tables())


def check(model: str, cut: tuple[int, ...], length: int, mean: str) -> dict[str, Any]:
    """A step along a plan's paths, and the same in one process: what differs."""
    case = Case("paths", model, cut=cut, microbatches=MICROBATCHES)
    connection = Connection(Grid(4), torch.device("cpu"), timeout_seconds=30)
    pipeline = planned(length, cut).pipeline
    assert pipeline is not None
    assert pipeline.paths is not None
    assert pipeline.starts is not None
    paths = [tuple(Hop(*hop) for hop in path) for path in pipeline.paths]
    schedule = add_messages(partial(paths, pipeline.starts, pipeline.ranks), LOOKAHEAD)
    stages = cells_by_stage(list(cell_names(MODELS[model])), cut)
    held = [cell for stage in schedule.stages_of(connection.rank) for cell in stages[stage]]
    part = build(MODELS[model], dtype=case.dtype, seed=3, cells=held)
    nudge(part)
    runtime = connection.runtime(schedule, stages, part, loss=LOSS, batch_tokens=case.batch_tokens)
    result = runtime.step([case.batch(ids) for ids in case.ids()])
    assert runtime.shared is not None
    if mean == "visits":
        mean_over_visits(schedule, runtime.shared)
    timeline = connection.timeline(schedule, result)
    whole, loss, _ = alone(case, stages, paths, [case.ids()])
    differences = {}
    for name, parameter in part.named_parameters():
        expected = dict(whole.named_parameters())[name].grad
        assert expected is not None
        assert parameter.grad is not None
        share = 1.0
        if mean == "visits" and name.startswith("blocks."):
            cell = "block." + name.split(".")[1]
            share = sum(any(cell in stages[hop.stage] for hop in path) for path in paths) / MICROBATCHES
        error = (parameter.grad - expected / share).abs().max() / expected.abs().max().clamp_min(1e-12)
        differences[name] = float(error)
    total = torch.zeros((), dtype=torch.float64)
    for _, sums in result.sums:
        total += sums.objective(LOSS, case.batch_tokens).double()
    dist.all_reduce(total)
    runtime.close()
    connection.close()
    order = [str(a) for a in schedule.actions[connection.rank] if a.kind.value in "FB"]
    took = [
        (start, str(a))
        for a, rank, start in zip(timeline.actions, timeline.rank.tolist(), timeline.start.tolist(), strict=True)
        if rank == connection.rank and a.kind.value in "FB"
    ]
    return {
        "gradients": differences,
        "loss": abs(total.item() - loss) / loss,
        "order kept": [name for _, name in sorted(took)] == order,
        "lengths": sorted({len(path) for path in paths}),
    }


def main(folder: Path) -> None:
    join_ranks("cpu")
    torch.set_num_threads(1)
    found = {name: check(*case) for name, case in CASES.items()}
    (folder / f"found-{dist.get_rank()}.json").write_text(json.dumps(found))
    recipe = Recipe.load(folder / "recipe.toml")
    for name, length, swaps in (("whole", 3, 0), ("partial", 2, 2)):
        plan = planned(length, (2, 1, 1, 3), swaps=swaps)
        plan = plan.model_copy(update={"execution": plan.execution.model_copy(update={"threads": 1})})
        train(recipe, plan, out=folder / name, data=folder / "data", quiet=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
