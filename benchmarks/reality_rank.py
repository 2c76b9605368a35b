"""One of the two ranks that bench_reality.py starts: profiles, predicts (rank 0 writes that down), then runs.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python benchmarks/reality_rank.py FOLDER CORE STEPS
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from grainline.documents import Attention, ModelConfig, Moe
from grainline.documents.recipe import Loss
from grainline.models.build import build
from grainline.models.cells import Batch
from grainline.parallel.pipeline import Connection, Grid
from grainline.parallel.pipeline.connect import cells_by_stage
from grainline.parallel.pipeline.profile import costs_of, profile_cells
from grainline.schedule import Costs, Kind, Schedule, add_messages, simulate
from grainline.schedule.cells import cells_of
from grainline.schedule.cut import cut, equal_cut
from grainline.schedule.simulator.lower import lower
from grainline.schedule.simulator.network import Network
from grainline.schedule.table import SCHEDULES, make_schedule

RANKS, ROWS, LENGTH, MICROBATCHES = 2, 2, 64, 8
LOSS = Loss(mtp_weight=0.3)
NAMES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-v", "v-half", "dualpipe-v")
ATTENTION = Attention(heads=8, kv_heads=4, head_dim=32, qk_norm=True)
Profiles = list[dict[str, dict[Kind, float]]]
"""By rank and cell: seconds of each kind."""

SHAPES = {
    "dense": ModelConfig(
        vocab_size=4096, hidden_size=256, layers=8, ffn_hidden=768, max_positions=LENGTH, attention=ATTENTION
    ),
    "sparse": ModelConfig(
        vocab_size=4096,
        hidden_size=256,
        layers=8,
        ffn_hidden=640,
        max_positions=LENGTH,
        mtp_depth=1,
        attention=ATTENTION,
        moe=Moe(experts=16, top_k=4, expert_hidden=128, shared_experts=1, dense_layers=(0,)),
    ),
    "wide head": ModelConfig(
        vocab_size=32_768, hidden_size=192, layers=8, ffn_hidden=512, max_positions=LENGTH, attention=ATTENTION
    ),
}


@dataclass(frozen=True)
class Messages:
    """What a message between the ranks costs, and what it does to the compute beside it."""

    latency_seconds: float
    bytes_per_second: float
    overlap_speed: float


@dataclass(frozen=True)
class Trial:
    """A schedule of a shape, with a cut."""

    shape: str
    schedule: str
    cut: str

    @property
    def name(self) -> str:
        return f"{self.shape}, {self.schedule}, {self.cut} cut"


def trials() -> Iterator[Trial]:
    for shape in SHAPES:
        yield from (Trial(shape, name, "equal") for name in NAMES)
        yield from (Trial(shape, name, "balanced") for name in ("gpipe", "1f1b", "zb-v"))


def batch(shape: str, number: int) -> Batch:
    random = torch.Generator().manual_seed(number)
    ids_BS1 = torch.randint(SHAPES[shape].vocab_size, (ROWS, LENGTH + 1), generator=random)
    return Batch.of(SHAPES[shape], ids_BS1)


def profile_messages(connection: Connection, message_bytes: int) -> Messages:
    """Of this pair of ranks: a message of 64 bytes, one of `message_bytes`, and a stream of them beside a product."""
    small, large = torch.zeros(16), torch.zeros(message_bytes // 4)
    short, long = (_one_way(connection, tensor) for tensor in (small, large))
    alone = _products(connection, None)
    beside = _products(connection, large)
    return Messages(short, message_bytes / max(long - short, 1e-9), min(1.0, beside / alone))


def _one_way(connection: Connection, tensor: torch.Tensor, rounds: int = 15) -> float:
    """Median of half a round trip."""
    group, first = connection.group, connection.rank == 0
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        if first:
            group.send([tensor], 1, 1).wait()
            group.recv([tensor], 1, 2).wait()
        else:
            group.recv([tensor], 0, 1).wait()
            group.send([tensor], 0, 2).wait()
        seconds.append((time.perf_counter() - begin) / 2)
    return statistics.median(seconds[1:])


def _products(connection: Connection, beside: torch.Tensor | None, seconds: float = 0.4) -> float:
    """Products per second of this rank, with messages of `beside` going both ways all the time, or none."""
    other = 1 - connection.rank
    x_NN = torch.randn(256, 256)
    into = None if beside is None else torch.empty_like(beside)
    dist.barrier()
    begin, count, under_way = time.perf_counter(), 0, []
    messages = 0
    while time.perf_counter() - begin < seconds:
        if beside is not None and all(one.is_completed() for one in under_way):
            under_way = [
                connection.group.send([beside], other, 10 + messages),
                connection.group.recv([into], other, 10 + messages),
            ]
            messages += 1
        x_NN @ x_NN
        count += 1
    rate = count / (time.perf_counter() - begin)
    if beside is not None:  # both ends must have posted equally many
        counts: list[Any] = [None, None]
        dist.all_gather_object(counts, messages)
        for number in range(messages, max(counts)):
            under_way += [
                connection.group.send([beside], other, 10 + number),
                connection.group.recv([into], other, 10 + number),
            ]
        for one in under_way:
            one.wait()
    return rate


def gathered(value: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def made(
    trial: Trial, profiles: list[dict[str, dict[Kind, float]]]
) -> tuple[Schedule, tuple[tuple[str, ...], ...], Costs]:
    """A trial's schedule with messages, its stages, and their costs."""
    config, chosen = SHAPES[trial.shape], SCHEDULES[trial.schedule]
    cells = cells_of(config)
    placement = chosen.place(RANKS, chosen.usual_chunks)
    sizes = equal_cut(cells, len(placement))
    if trial.cut == "balanced":
        whole = [[p[cell.name][Kind.F] + p[cell.name][Kind.B] for cell in cells] for p in profiles]
        sizes = cut(whole, placement).cells
    stages = cells_by_stage([cell.name for cell in cells], sizes)
    costs = costs_of(profiles, stages, ROWS * LENGTH * config.hidden_size * 4.0)
    return add_messages(make_schedule(trial.schedule, RANKS, MICROBATCHES, costs=costs)), stages, costs


def predicted(schedule: Schedule, costs: Costs, messages: Messages) -> dict[str, float]:
    """Seconds of a step by the simulator, and by the naive predictor: the busiest rank's compute, plus nothing."""
    network = Network.uniform(RANKS, messages.latency_seconds, messages.bytes_per_second)
    timeline = simulate(lower(schedule, costs, network, overlap_speed=messages.overlap_speed))
    naive = sum(
        costs.stage(action.stage, rank).seconds[action.kind]
        for rank, actions in enumerate(schedule.actions)
        for action in actions
        if action.kind in (Kind.F, Kind.B, Kind.I, Kind.W)
    )
    return {"simulated": timeline.makespan, "naive": naive / RANKS}


def measured(connection: Connection, trial: Trial, schedule: Schedule, stages: Any, steps: int) -> list[float]:
    """Seconds of each step but the first: from when both are ready until the later one is done."""
    config = SHAPES[trial.shape]
    held = [cell for stage in schedule.stages_of(connection.rank) for cell in stages[stage]]
    model = build(config, cells=held)
    model.compute_dtype = torch.float32
    tokens = MICROBATCHES * ROWS * LENGTH
    runtime = connection.runtime(schedule, stages, model, loss=LOSS, batch_tokens=tokens)
    batches = [batch(trial.shape, m) for m in range(MICROBATCHES)]
    seconds = []
    for _ in range(steps + 1):
        dist.barrier()
        begin = time.perf_counter()
        runtime.step(batches)
        taken = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        dist.all_reduce(taken, dist.ReduceOp.MAX)
        seconds.append(taken.item())
    runtime.close()
    return seconds[1:]


def in_words(profiles: dict[str, Profiles]) -> dict[str, Any]:
    """Profiles with names for kinds, as JSON wants them."""
    return {
        shape: [{cell: {kind.value: s for kind, s in seconds.items()} for cell, seconds in one.items()} for one in both]
        for shape, both in profiles.items()
    }


def main(folder: Path, core: int, steps: int) -> None:
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    connection = Connection(Grid(RANKS, 1), torch.device("cpu"), timeout_seconds=120)
    messages = profile_messages(connection, ROWS * LENGTH * 256 * 4)
    both = [Messages(**m) for m in gathered(messages.__dict__)]
    messages = Messages(both[0].latency_seconds, both[0].bytes_per_second, min(m.overlap_speed for m in both))
    profiles = {}
    for shape, config in SHAPES.items():
        dist.barrier()
        profiles[shape] = gathered(dict(profile_cells(config, batch(shape, 0), LOSS, dtype=torch.float32)))
    plans = {trial: made(trial, profiles[trial.shape]) for trial in trials()}
    predictions = {trial.name: predicted(schedule, costs, messages) for trial, (schedule, _, costs) in plans.items()}
    if connection.rank == 0:
        text = json.dumps(
            {"messages": messages.__dict__, "profiles": in_words(profiles), "predictions": predictions}, indent=1
        )
        (folder / "predictions.json").write_text(text)  # before anything has run
    dist.barrier()
    for trial, (schedule, stages, _) in plans.items():
        seconds = measured(connection, trial, schedule, stages, steps)
        if connection.rank == 0:
            with (folder / "measured.jsonl").open("a") as file:
                file.write(json.dumps({"trial": trial.name, "seconds": seconds}) + "\n")
    dist.barrier()
    connection.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
