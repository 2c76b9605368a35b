"""A rank of a pipeline that may die, hang or fail in its second step: started by test_pipeline_failure.py."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pipeline_cases import LOSS, MODELS, Case

from grainline.models.build import build
from grainline.models.cells import cell_names
from grainline.parallel.pipeline import Connection, Grid, PipelineError
from grainline.parallel.pipeline.connect import cells_by_stage

CULPRIT = 0
TIMEOUT_SECONDS = 3.0
HANG_SECONDS = 60.0


def main(folder: Path, how: str, rank: int, world: int, port: int) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=dist.PrefixStore(how, store), rank=rank, world_size=world)
    connection = Connection(Grid(world), torch.device("cpu"), timeout_seconds=TIMEOUT_SECONDS)
    case = Case("1f1b", "dense-tied", microbatches=4)
    schedule = case.made(world)
    stages = cells_by_stage(list(cell_names(MODELS[case.model])), case.cut_for(schedule.stages))
    held = [cell for stage in schedule.stages_of(rank) for cell in stages[stage]]
    part = build(MODELS[case.model], cells=held)
    part.compute_dtype = torch.float32
    runtime = connection.runtime(schedule, stages, part, loss=LOSS, batch_tokens=case.batch_tokens)
    batches = [case.batch(ids) for ids in case.ids()]
    runtime.step(batches)
    if rank == CULPRIT:
        part.blocks[0].register_forward_pre_hook(Ending(how))
    began = time.monotonic()
    said = "nothing"
    try:
        runtime.step(batches)
    except PipelineError as error:
        said = str(error)
    except MemoryError as error:
        said = f"its own: {error}"
    found = {"said": said, "seconds": time.monotonic() - began}
    (folder / f"{how}-{rank}.json").write_text(json.dumps(found))
    if how == "fails" and rank == CULPRIT:
        time.sleep(TIMEOUT_SECONDS + 1)  # an error that is caught leaves the connections open
    os._exit(0)


class Ending:
    """At its third forward: dies, hangs or fails."""

    def __init__(self, how: str) -> None:
        self.how, self.calls = how, 0

    def __call__(self, *_: Any) -> None:
        self.calls += 1
        if self.calls < 3:
            return
        if self.how == "dies":
            os._exit(1)
        if self.how == "hangs":
            time.sleep(HANG_SECONDS)
            os._exit(1)
        raise MemoryError("no room for a block")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6]))
