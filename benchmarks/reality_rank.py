"""One of the two ranks that bench_reality.py starts: profiles, predicts (rank 0 writes that down), then runs.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python benchmarks/reality_rank.py FOLDER CORE STEPS SET
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from grainline.documents import Attention, ModelConfig, Moe
from grainline.documents.recipe import Loss
from grainline.exhibits.profiled import Laid, Profile, WhichCut, lay_out, naive_seconds, predicted_seconds
from grainline.models.build import build
from grainline.models.cells import Batch
from grainline.parallel.pipeline import Connection, Grid
from grainline.parallel.pipeline.profile import profile_cells
from grainline.parallel.pipeline.profile_messages import gathered, profile_messages
from grainline.schedule import Kind

RANKS, ROWS, LENGTH, MICROBATCHES = 2, 2, 64, 8
LOSS = Loss(mtp_weight=0.3)
NAMES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-v", "v-half", "dualpipe-v")
ATTENTION = Attention(heads=8, kv_heads=4, head_dim=32, qk_norm=True)
Profiles = list[dict[str, dict[Kind, float]]]
"""By rank and cell: seconds of each kind."""

SETTLED = {
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
"""What the profile and the model of a step were settled on: errors here were seen before they were as they are."""

UNSEEN = {
    "latent": ModelConfig(
        vocab_size=8192,
        hidden_size=224,
        layers=12,
        ffn_hidden=512,
        max_positions=LENGTH,
        tie_embeddings=True,
        attention=Attention(kind="mla", heads=6, head_dim=32, q_rank=96, kv_rank=64, rope_dim=16, value_dim=32),
    ),
    "fine experts": ModelConfig(
        vocab_size=6144,
        hidden_size=320,
        layers=8,
        ffn_hidden=960,
        max_positions=LENGTH,
        attention=Attention(heads=10, kv_heads=2, head_dim=32),
        moe=Moe(experts=32, top_k=4, expert_hidden=80, router="softmax-topk"),
    ),
}
"""Run for the first time when nothing was changed any more."""

SETS = {"settled": SETTLED, "unseen": UNSEEN}
SHAPES = SETTLED | UNSEEN


@dataclass(frozen=True)
class Trial:
    """A schedule of a shape, with a cut."""

    shape: str
    schedule: str
    cut: WhichCut

    @property
    def name(self) -> str:
        return f"{self.shape}, {self.schedule}, {self.cut} cut"


def trials(shapes: Iterable[str]) -> Iterator[Trial]:
    for shape in shapes:
        yield from (Trial(shape, name, "equal") for name in NAMES)
        yield from (Trial(shape, name, "balanced") for name in ("gpipe", "1f1b", "zb-v"))


def batch(shape: str, number: int) -> Batch:
    random = torch.Generator().manual_seed(number)
    ids_BS1 = torch.randint(SHAPES[shape].vocab_size, (ROWS, LENGTH + 1), generator=random)
    return Batch.of(SHAPES[shape], ids_BS1)


def made(trial: Trial, profiles: Sequence[Profile]) -> Laid:
    """A trial's schedule with messages, its stages, and their costs."""
    config = SHAPES[trial.shape]
    message_bytes = ROWS * LENGTH * config.hidden_size * 4.0
    return lay_out(config, trial.schedule, MICROBATCHES, profiles, trial.cut, message_bytes)


def measured(connection: Connection, trial: Trial, laid: Laid, steps: int) -> list[float]:
    """Seconds of each step but the first: from when both are ready until the later one is done."""
    config = SHAPES[trial.shape]
    held = [cell for stage in laid.schedule.stages_of(connection.rank) for cell in laid.stages[stage]]
    model = build(config, cells=held)
    model.compute_dtype = torch.float32
    tokens = MICROBATCHES * ROWS * LENGTH
    runtime = connection.runtime(laid.schedule, laid.stages, model, loss=LOSS, batch_tokens=tokens)
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


def main(folder: Path, core: int, steps: int, which: str) -> None:
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    connection = Connection(Grid(RANKS, 1), torch.device("cpu"), timeout_seconds=120)
    messages = profile_messages(connection, ROWS * LENGTH * 256 * 4)
    profiles = {}
    for shape, config in SETS[which].items():
        dist.barrier()
        profiles[shape] = gathered(profile_cells(config, batch(shape, 0), LOSS, dtype=torch.float32))
    plans = {trial: made(trial, profiles[trial.shape]) for trial in trials(SETS[which])}
    predictions = {
        trial.name: {
            "simulated": predicted_seconds(SHAPES[trial.shape], laid, messages),
            "naive": naive_seconds(laid),
        }
        for trial, laid in plans.items()
    }
    if connection.rank == 0:
        text = json.dumps(
            {"messages": messages.__dict__, "profiles": in_words(profiles), "predictions": predictions}, indent=1
        )
        (folder / "predictions.json").write_text(text)  # before anything has run
    dist.barrier()
    for trial, laid in plans.items():
        seconds = measured(connection, trial, laid, steps)
        if connection.rank == 0:
            with (folder / "measured.jsonl").open("a") as file:
                file.write(json.dumps({"trial": trial.name, "seconds": seconds}) + "\n")
    dist.barrier()
    connection.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
