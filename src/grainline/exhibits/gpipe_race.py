"""GPipe with real processes: two ranks, a batch at once or in micro-batches, against one process; steps in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grainline.documents import Attention, ModelConfig
from grainline.documents.recipe import Loss
from grainline.exhibits.harness import alternate
from grainline.exhibits.processes import run_ranks

if TYPE_CHECKING:
    from torch import Tensor

    from grainline.parallel.pipeline import Connection, PipelineRuntime

RANKS, SEQUENCES = 2, 8
VOCABULARY, HIDDEN, LAYERS = 512, 256, 8  # embedding and head are a small part of it: equal cells are nearly equal
ALONE = {"one process, M = 1": 1, "one process, M = 8": 8}
PIPELINED = {"two, M = 1": 1, "two, M = 8": 8}


@dataclass(frozen=True)
class Race:
    """One start of both processes."""

    length: int
    rounds: int
    seed: int = 0

    @property
    def config(self) -> ModelConfig:
        """Dense blocks."""
        return ModelConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            layers=LAYERS,
            ffn_hidden=3 * HIDDEN,
            max_positions=self.length,
            attention=Attention(heads=4, kv_heads=4, head_dim=HIDDEN // 4),
        )

    @property
    def batch_tokens(self) -> int:
        """Of a step."""
        return SEQUENCES * self.length


def run(race: Race, folder: Path) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each step, until both ranks are done, and the loss, of every way. RuntimeError if a rank fails."""
    ends = run_ranks(_work, race, RANKS, folder)
    seconds = {way: [max(both) for both in zip(*(end["seconds"][way] for end in ends), strict=True)] for way in WAYS}
    return seconds, {way: sum(end["loss"][way] for end in ends) for way in WAYS}


WAYS = (*ALONE, *PIPELINED)


def _work(race: Race, connection: Connection, folder: Path) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    generator = torch.Generator().manual_seed(race.seed)
    ids_BS1 = torch.randint(0, VOCABULARY, (SEQUENCES, race.length + 1), generator=generator)
    runtimes = {way: _runtime(race, count, connection) for way, count in PIPELINED.items()}
    steps: dict[str, Callable[[], float]] = {}
    for way, count in ALONE.items():
        # The other rank has nothing to do meanwhile, and waits.
        steps[way] = partial(_alone(race), ids_BS1.chunk(count)) if connection.rank == 0 else float
    for way, count in PIPELINED.items():
        steps[way] = partial(_pipelined, race, runtimes[way], ids_BS1.chunk(count))
    loss: dict[str, float] = {}

    def turn(way: str) -> None:
        loss[way] = steps[way]()
        dist.barrier()

    dist.barrier()
    seconds = alternate({way: partial(turn, way) for way in WAYS}, rounds=race.rounds)
    for runtime in runtimes.values():
        runtime.close()
    return {"seconds": seconds, "loss": loss}


def _alone(race: Race) -> Callable[[tuple[Tensor, ...]], float]:
    """A step of the whole model here, in parts whose gradients add up."""
    from grainline.models.build import build
    from grainline.train.objective import Objective

    model = build(race.config, seed=race.seed)
    objective = Objective(model, Loss(), batch_tokens=race.batch_tokens, document_attention=False, bos_token_id=None)

    def step(parts: tuple[Tensor, ...]) -> float:
        model.zero_grad()
        total = 0.0
        for ids_BS1 in parts:
            loss, _ = objective(ids_BS1)
            loss.backward()
            total += loss.item()
        return total

    return step


def _runtime(race: Race, microbatches: int, connection: Connection) -> PipelineRuntime:
    """Of this rank: half of the blocks, in GPipe's order."""
    from grainline.models.build import build
    from grainline.parallel.pipeline.connect import cells_by_stage
    from grainline.schedule import add_messages, make_schedule
    from grainline.schedule.cells import cells_of
    from grainline.schedule.cut import equal_cut

    cells = cells_of(race.config)
    stages = cells_by_stage([cell.name for cell in cells], equal_cut(cells, RANKS))
    model = build(race.config, seed=race.seed, cells=stages[connection.rank])
    schedule = add_messages(make_schedule("gpipe", RANKS, microbatches))
    return connection.runtime(schedule, stages, model, loss=Loss(), batch_tokens=race.batch_tokens)


def _pipelined(race: Race, runtime: PipelineRuntime, parts: tuple[Tensor, ...]) -> float:
    """A step; this rank's part of its loss."""
    from grainline.models.cells import Batch

    runtime.model.zero_grad()
    result = runtime.step([Batch.of(race.config, ids_BS1) for ids_BS1 in parts])
    return sum(sums.objective(Loss(), race.batch_tokens).item() for _, sums in result.sums)
