"""What each rank of a pipeline runs: started by test_pipeline.py under torchrun, with a folder for what it finds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pipeline_cases import LOSS, MODELS, WORLDS, Case

from grainline.models.build import build
from grainline.models.cells import Carry, cell_names
from grainline.models.loss import run_cells
from grainline.models.model import Model
from grainline.parallel.pipeline import Connection, Grid
from grainline.parallel.pipeline.connect import cells_by_stage
from grainline.schedule import Kind


def alone(case: Case, stages: tuple[tuple[str, ...], ...], paths: Any, replica_ids: list[list[torch.Tensor]]) -> Any:
    """The whole model in this process: gradients, losses and counts of the same micro-batches, cell by cell."""
    model = build(MODELS[case.model], dtype=case.dtype, seed=3)
    model.compute_dtype, model.moment = case.compute, case.moment
    nudge(model)
    loss, counts = 0.0, 0
    for ids in replica_ids:
        for m, ids_BS1 in enumerate(ids):
            names = [cell for hop in paths[m] for cell in stages[hop.stage]]
            _, sums = run_cells(model, names, case.batch(ids_BS1), Carry())
            objective = sums.objective(LOSS, case.batch_tokens)
            objective.backward()
            loss, counts = loss + objective.item(), counts + sums.counts_LE
    return model, loss, counts


def nudge(model: Model) -> None:
    """Make gains, biases and buffers count: zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(5)
    names = sorted(
        name
        for name, p in [*model.named_parameters(), *model.named_buffers()]
        if p.ndim == 1 or name.endswith("residual_EE")
    )
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name in names:
            generator.manual_seed(hash_of(name))
            state[name] += 0.1 * torch.randn(state[name].shape, generator=generator).to(state[name].dtype)


def hash_of(name: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31


def check(case: Case, world: int) -> dict[str, Any]:
    """Run a case as a pipeline and alone; what differs."""
    grid = Grid(world // case.replicas, case.replicas)
    connection = Connection(grid, torch.device("cpu"), timeout_seconds=30)
    schedule = case.made(grid.ranks)
    stages = cells_by_stage(list(cell_names(MODELS[case.model])), case.cut_for(schedule.stages))
    held = [cell for stage in schedule.stages_of(connection.rank) for cell in stages[stage]]
    part = build(MODELS[case.model], dtype=case.dtype, seed=3, cells=held)
    nudge(part)
    part.compute_dtype, part.recompute = case.compute or case.dtype, case.recompute
    part.moment = case.moment
    runtime = connection.runtime(
        schedule, stages, part, loss=LOSS, batch_tokens=case.batch_tokens, backwards=case.backwards
    )
    ids = [[row.roll(7 * replica, 1) for row in case.ids()] for replica in range(case.replicas)]
    batches = [case.batch(ids_BS1) for ids_BS1 in ids[connection.replica]]
    for _ in range(2):  # the second step must find nothing left of the first
        for parameter in part.parameters():
            parameter.grad = None
        result = runtime.step(batches)
    timeline = connection.timeline(schedule, result)
    whole, loss, counts_LE = alone(case, stages, schedule.paths, ids)
    reference = dict(whole.named_parameters())

    def difference(name: str, gradient: torch.Tensor | None) -> float:
        expected = reference[name].grad
        if expected is None:
            expected = torch.zeros_like(reference[name])
        assert gradient is not None, name
        return float((gradient - expected).abs().max() / expected.abs().max().clamp_min(1e-12))

    mine = {name: difference(name, p.grad) for name, p in part.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    counts = torch.zeros_like(counts_LE)
    for _, sums in result.sums:
        total += sums.objective(LOSS, case.batch_tokens).double()
        counts += sums.counts_LE
    for tensor in (total, counts):
        dist.all_reduce(tensor)
    compute = [a for actions in schedule.actions for a in actions if a.kind in (Kind.F, Kind.B, Kind.I, Kind.W, Kind.R)]
    noted = [a for a in timeline.actions if a.kind in (Kind.F, Kind.B, Kind.I, Kind.W, Kind.R)]
    messages = sum(a.kind in (Kind.SEND_F, Kind.SEND_B) for actions in schedule.actions for a in actions)
    found = {
        "gradients": mine,
        "missing": sorted(set(reference) - set(mine)),
        "loss": abs(total.item() - loss) / loss,
        "counts": bool(torch.equal(counts, counts_LE)),
        "compute noted": sorted(map(str, noted)) == sorted(map(str, compute)),
        "messages noted": sum(a.kind in (Kind.SEND_F, Kind.SEND_B) for a in timeline.actions) == messages,
        "in order": bool((timeline.start >= 0).all() and (timeline.end >= timeline.start).all()),
    }
    runtime.close()
    connection.close()
    return found


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    world, rank = dist.get_world_size(), dist.get_rank()
    found = {name: check(case, world) for name, case in WORLDS[world].items()}
    (folder / f"found-{world}-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
