"""What each rank of a pipeline with vocabulary passes runs: started by test_vocabulary_pipeline.py under torchrun."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pipeline_cases import LOSS, MODELS
from pipeline_worker import alone, nudge
from vocabulary_cases import WORLDS, VocabularyCase

from grainline.models.build import build
from grainline.models.cells import cell_names
from grainline.parallel.pipeline import Connection, Grid, PipelineError
from grainline.parallel.pipeline.connect import cells_by_stage
from grainline.parallel.pipeline.vocabulary import rows_of
from grainline.parallel.pipeline.vocabulary_group import vocabulary_passes
from grainline.parallel.pipeline.vocabulary_passes import without_vocabulary


def check(case: VocabularyCase, world: int) -> dict[str, Any]:
    """Run a case as a pipeline and alone; what differs."""
    grid = Grid(world // case.replicas, case.replicas)
    connection = Connection(grid, torch.device("cpu"), timeout_seconds=30)
    schedule, config = case.made(grid.ranks), MODELS[case.model]
    whole_stages = cells_by_stage(list(cell_names(config)), case.cut_for(schedule.stages))
    stages = without_vocabulary(config, whole_stages)
    held = [cell for stage in schedule.stages_of(connection.rank) for cell in stages[stage]]
    part = build(config, dtype=case.dtype, seed=3, cells=[*held, "vocabulary"])
    nudge(part)
    part.compute_dtype = case.dtype
    passes = vocabulary_passes(connection, part, case.algorithm, loss=LOSS, batch_tokens=case.batch_tokens)
    runtime = connection.runtime(schedule, stages, part, loss=LOSS, batch_tokens=case.batch_tokens, passes=passes)
    ids = [[row.roll(7 * replica, 1) for row in case.ids()] for replica in range(case.replicas)]
    for _ in range(2):  # the second step must find nothing left of the first
        for parameter in part.parameters():
            parameter.grad = None
        result = runtime.step([case.batch(ids_BS1) for ids_BS1 in ids[connection.replica]])
    timeline = connection.timeline(schedule, result)
    whole, loss, counts_LE = alone(case, whole_stages, schedule.paths, ids)
    reference = dict(whole.named_parameters())
    rows = rows_of(config.vocab_size, connection.rank, grid.ranks)

    def difference(name: str, gradient: torch.Tensor | None) -> float:
        expected = reference[name].grad
        assert expected is not None, name
        if name in ("embedding.weight", "head.weight"):
            expected = expected[rows.start : rows.stop]
        if gradient is None:  # a bias that no one's loss depends on
            return float(expected.abs().max())
        return float((gradient - expected).abs().max() / expected.abs().max().clamp_min(1e-12))

    mine = {name: difference(name, p.grad) for name, p in part.named_parameters()} if not case.evaluates else {}
    total = torch.zeros((), dtype=torch.float64)
    counts = torch.zeros_like(counts_LE)
    for _, sums in result.sums:
        total += sums.objective(LOSS, case.batch_tokens).double()
        counts += sums.counts_LE
    for tensor in (total, counts):
        dist.all_reduce(tensor)
    noted = sorted(str(action) for action in timeline.actions if not action.peer >= 0)
    wanted = sorted(str(action) for actions in schedule.actions for action in actions if not action.peer >= 0)
    found = {
        "gradients": mine,
        "missing": [] if case.evaluates else sorted(set(reference) - set(mine)),
        "rows": {name: p.shape[0] for name, p in part.named_parameters() if name.startswith(("embedding", "head"))},
        "loss": abs(total.item() - loss) / loss,
        "counts": bool(torch.equal(counts, counts_LE)),
        "noted": [a for a in noted if a != "REDUCE"] == wanted,
        "left": [p.grad is not None for p in part.parameters()].count(True),
    }
    runtime.close()
    connection.close()
    return found


def left_alone() -> str:
    """What the first rank says when the second one never takes part."""
    config = MODELS["dense-tied"]
    connection = Connection(Grid(2), torch.device("cpu"), timeout_seconds=1)
    case = VocabularyCase("1f1b", "dense-tied")
    stages = without_vocabulary(config, cells_by_stage(list(cell_names(config)), (3, 3)))
    part = build(config, cells=[*stages[connection.rank], "vocabulary"])
    passes = vocabulary_passes(connection, part, "vocab2", loss=LOSS, batch_tokens=case.batch_tokens)
    runtime = connection.runtime(case.made(2), stages, part, loss=LOSS, batch_tokens=case.batch_tokens, passes=passes)
    if connection.rank:
        time.sleep(8)
        return ""
    try:
        runtime.step([case.batch(ids_BS1) for ids_BS1 in case.ids()])
    except PipelineError as error:
        return str(error)
    return "nothing"


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    world, rank = dist.get_world_size(), dist.get_rank()
    found = {name: check(case, world) for name, case in WORLDS[world].items()}
    (folder / f"found-{world}-{rank}.json").write_text(json.dumps(found))
    if world == 2:
        (folder / f"alone-{rank}.txt").write_text(left_alone())
        os._exit(0)  # groups that a rank gave up are broken
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
