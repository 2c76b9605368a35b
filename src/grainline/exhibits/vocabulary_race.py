"""Pipelines of real processes with the vocabulary at their ends or over all ranks: step times in turns, and memory."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grainline.documents import Attention, ModelConfig
from grainline.documents.recipe import Loss
from grainline.exhibits.harness import alternate
from grainline.exhibits.processes import run_ranks
from grainline.schedule.passes.vocabulary_baselines import redistributed_blocks

if TYPE_CHECKING:
    from grainline.parallel.pipeline import Connection, PipelineRuntime

METHODS = ("plain", "redistribution", "vocab1", "vocab2")


@dataclass(frozen=True)
class Race:
    """One start of so many processes, each with one thread on a core of its own as far as there are cores."""

    ranks: int
    vocabulary: int
    methods: tuple[str, ...]
    microbatches: int
    sequences: int  # in a micro-batch
    length: int
    rounds: int  # 0: one step that doesn't warm up
    hidden: int = 256
    layers: int = 8
    seed: int = 0

    @property
    def config(self) -> ModelConfig:
        """Dense blocks of 12h² parameters, as the paper's; the head has a matrix of its own."""
        return ModelConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            layers=self.layers,
            ffn_hidden=8 * self.hidden // 3,
            max_positions=self.length,
            attention=Attention(heads=self.hidden // 64, kv_heads=self.hidden // 64, head_dim=64),
        )

    @property
    def batch_tokens(self) -> int:
        """Of a step."""
        return self.microbatches * self.sequences * self.length

    def blocks(self, method: str) -> tuple[int, ...]:
        """Of each rank; the output layer counts 2V / (24h + 4s) of them."""
        if method != "redistribution":
            return (self.layers // self.ranks,) * self.ranks
        output = 2 * self.vocabulary / (24 * self.hidden + 4 * self.length)
        return redistributed_blocks(self.layers, self.ranks, output)


@dataclass(frozen=True)
class Finish:
    """Of one rank."""

    seconds: dict[str, list[float]]  # of each step, by method
    loss: dict[str, float]  # this rank's part of the step's, by method
    grown_bytes: int  # highest resident memory, less what it was before there was a model


def run(race: Race, folder: Path) -> list[Finish]:
    """Start the processes and wait for them. Raises RuntimeError if one fails."""
    return [Finish(**found) for found in run_ranks(_work, race, race.ranks, folder)]


def _work(race: Race, connection: Connection, folder: Path) -> dict[str, Any]:
    import torch.distributed as dist

    before = _resident_bytes()
    loss: dict[str, float] = {}
    with ExitStack() as stack:
        runtimes = {method: stack.enter_context(_runtime(race, method, connection)) for method in race.methods}
        batches = _batches(race)

        def step(method: str) -> None:
            for parameter in runtimes[method].model.parameters():
                parameter.grad = None
            result = runtimes[method].step(batches)
            dist.barrier()
            loss[method] = sum(sums.objective(Loss(), race.batch_tokens).item() for _, sums in result.sums)

        dist.barrier()
        turns = {method: partial(step, method) for method in race.methods}
        seconds = alternate(turns, rounds=max(1, race.rounds), warmup=min(1, race.rounds))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"seconds": seconds, "loss": loss, "grown_bytes": grown}


@contextlib.contextmanager
def _runtime(race: Race, method: str, connection: Connection) -> Iterator[PipelineRuntime]:
    """Of this rank, in 1F1B, with the vocabulary at the ends or over all ranks."""
    from grainline.models.build import build
    from grainline.models.cells import cell_names
    from grainline.parallel.pipeline.connect import cells_by_stage
    from grainline.parallel.pipeline.vocabulary_group import vocabulary_passes
    from grainline.parallel.pipeline.vocabulary_passes import without_vocabulary
    from grainline.schedule import add_messages, one_f_one_b
    from grainline.schedule.passes.vocabulary import add_vocabulary_passes

    config, rank = race.config, connection.rank
    first, *between, last = race.blocks(method)
    stages, passes = cells_by_stage(list(cell_names(config)), (1 + first, *between, last + 1)), None
    schedule = one_f_one_b(race.ranks, race.microbatches)
    if method in ("plain", "redistribution"):
        model = build(config, seed=race.seed, cells=stages[rank])
    else:
        assert method in ("vocab1", "vocab2")
        stages = without_vocabulary(config, stages)
        model = build(config, seed=race.seed, cells=[*stages[rank], "vocabulary"])
        passes = vocabulary_passes(connection, model, method, loss=Loss(), batch_tokens=race.batch_tokens)  # type: ignore[arg-type]
        schedule = add_vocabulary_passes(schedule, method)  # type: ignore[arg-type]
    runtime = connection.runtime(
        add_messages(schedule), stages, model, loss=Loss(), batch_tokens=race.batch_tokens, passes=passes
    )
    try:
        yield runtime
    finally:
        runtime.close()


def _batches(race: Race) -> list[Any]:
    import torch

    from grainline.models.cells import Batch

    generator = torch.Generator().manual_seed(race.seed)
    shape = race.sequences, race.length + 1
    drawn = (torch.randint(0, race.vocabulary, shape, generator=generator) for _ in range(race.microbatches))
    return [Batch.of(race.config, ids_BS1) for ids_BS1 in drawn]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
