"""What the pipeline runtime costs, against torch.distributed.pipelining on the same stages.

Two processes over gloo, each pinned to a core and with a model of its own seed, take turns step by step: our runtime,
then torch's. Both run the same cells of the same dense model on the same micro-batches; gradients are compared first.
Printed is our seconds over torch's, by schedule and size: "tiny" stages are little more than the runtime itself.

    python benchmarks/bench_pipeline.py [--rounds 15] [--sizes tiny small middling] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed import pipelining

from grainline.documents.recipe import Loss
from grainline.exhibits.harness import ratio
from grainline.hardware import processor
from grainline.models.build import build
from grainline.models.cells import Batch, Carry, Tally, cell_names, run_cell
from grainline.models.dial import config_for_depth, dense_twin
from grainline.models.model import Model
from grainline.parallel.pipeline import Connection, Grid
from grainline.parallel.pipeline.connect import cells_by_stage
from grainline.schedule import add_messages
from grainline.schedule.table import make_schedule

RESULT = Path(__file__).parent / "results" / "pipeline.json"
RANKS, MICROBATCHES = 2, 8
SIZES = {"tiny": (4, 1, 32), "small": (4, 4, 128), "middling": (8, 4, 256)}  # depth, sequences, tokens of each
SCHEDULES = {
    "gpipe": (pipelining.ScheduleGPipe, 1),
    "1f1b": (pipelining.Schedule1F1B, 1),
    "interleaved": (pipelining.ScheduleInterleaved1F1B, 2),
}
"""Ours → torch's, and stages per rank."""


class TorchStage(nn.Module):
    """The same cells as a module of one tensor in and one out; the head is the loss function's."""

    def __init__(self, model: Model, cells: Sequence[str]) -> None:
        super().__init__()
        self.model, self.cells = model, tuple(cell for cell in cells if cell != "head")

    def forward(self, x: Tensor) -> Tensor:
        """Ids [B, S] or hidden states [B, S, D] → hidden states."""
        ids_BS = x if self.cells[0] == "embedding" else x[..., 0]
        batch, carry = Batch(ids_BS, ids_BS, None, None), Carry(None if self.cells[0] == "embedding" else x)
        for cell in self.cells:
            carry = run_cell(cell, self.model, batch, carry, Tally())
        assert carry.hidden_BSD is not None
        return carry.hidden_BSD


def bench(rank: int, port: int, rounds: int, sizes: Sequence[str], out: Path) -> None:
    """What each rank runs."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    found = {}
    for size in sizes:
        for name in SCHEDULES:
            ours, theirs = candidates(rank, name, *SIZES[size])
            seconds: dict[str, list[float]] = {"ours": [], "torch": []}
            for turn in range(rounds + 2):
                pair = (("ours", ours), ("torch", theirs))
                for who, step in pair if turn % 2 == 0 else pair[::-1]:
                    dist.barrier()
                    start = time.perf_counter()
                    step()
                    dist.barrier()
                    if turn >= 2:
                        seconds[who].append(time.perf_counter() - start)
            found[size, name] = seconds
    if rank == 0:
        out.write_text(json.dumps([[*key, seconds] for key, seconds in found.items()]))
    dist.destroy_process_group()


def candidates(rank: int, name: str, depth: int, rows: int, length: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One step of each; both have been run once, and their gradients compared."""
    config = dense_twin(config_for_depth(depth, vocab_size=1024, max_positions=length))
    config = config.model_copy(update={"mtp_depth": 0})  # one tensor crosses each boundary, as torch's stages have it
    theirs_schedule, chunks = SCHEDULES[name]
    schedule = add_messages(make_schedule(name, RANKS, MICROBATCHES, chunks=chunks))
    names = list(cell_names(config))
    cut = [len(names) * (s + 1) // schedule.stages - len(names) * s // schedule.stages for s in range(schedule.stages)]
    stages = cells_by_stage(names, cut)
    own = schedule.stages_of(rank)
    held = [cell for stage in own for cell in stages[stage]]
    batch_tokens = MICROBATCHES * rows * length
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (MICROBATCHES * rows, length + 1), generator=generator)

    mine = build(config, cells=held)
    mine.compute_dtype = torch.float32
    connection = Connection(Grid(RANKS), torch.device("cpu"))
    runtime = connection.runtime(schedule, stages, mine, loss=Loss(), batch_tokens=batch_tokens)

    def ours() -> None:
        mine.zero_grad()
        runtime.step([Batch.of(config, part) for part in ids.split(rows)])

    other = build(config, cells=held)
    other.compute_dtype = torch.float32
    theirs_stages = [
        pipelining.PipelineStage(TorchStage(other, stages[stage]), stage, schedule.stages, torch.device("cpu"))
        for stage in own
    ]

    def loss_fn(hidden_BSD: Tensor, label_BS: Tensor) -> Tensor:
        tally = Tally()
        run_cell("head", other, Batch(label_BS, label_BS, None, None), Carry(hidden_BSD), tally)
        assert tally.cross_entropy is not None
        return tally.cross_entropy / batch_tokens

    single = theirs_stages[0] if chunks == 1 else theirs_stages
    runner = theirs_schedule(single, MICROBATCHES, loss_fn=loss_fn, scale_grads=False)  # type: ignore[arg-type]
    is_last = schedule.stages - 1 in own

    def theirs() -> None:
        other.zero_grad()
        target = {"target": ids[:, 1:], "losses": []} if is_last else {}
        runner.step(*([ids[:, :-1]] if rank == 0 else []), **target)

    ours()
    theirs()
    for (key, a), (_, b) in zip(mine.named_parameters(), other.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--quick", action="store_true", help="tiny stages and 5 rounds, nothing kept")
    arguments = parser.parse_args()
    rounds = 5 if arguments.quick else max(5, arguments.rounds)
    sizes = ["tiny"] if arguments.quick else arguments.sizes
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seconds.json"
        mp.spawn(bench, (port, rounds, sizes, out), nprocs=RANKS)
        rows = json.loads(out.read_text())
    table = []
    for size, name, seconds in rows:
        found = ratio(seconds["ours"], seconds["torch"])
        mean = sum(seconds["ours"]) / len(seconds["ours"])
        print(f"{size:9} {name:12} ours / torch: {found}   ours: {1e3 * mean:.1f} ms a step")
        table.append({"size": size, "schedule": name, "ratio": found.value, "error_bar": found.error_bar, **seconds})
    if arguments.quick:
        return
    machine = {"python": platform.python_version(), "torch": torch.__version__, "cpu": processor.name()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": machine, "microbatches": MICROBATCHES, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
