"""The cell-wise cut on two processes of which one is slower: profiled, cut, predicted, and only then run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grainline.documents import Attention, ModelConfig, Moe
from grainline.documents.recipe import Loss
from grainline.exhibits.harness import alternate
from grainline.exhibits.processes import run_ranks
from grainline.exhibits.profiled import Laid, WhichCut, lay_out, predicted_seconds

if TYPE_CHECKING:
    from grainline.models.cells import Batch
    from grainline.parallel.pipeline import Connection, PipelineRuntime

RANKS, SLOW, SHARE = 2, 1, 0.6
CUTS: tuple[WhichCut, ...] = ("equal", "balanced")
LOSS = Loss(mtp_weight=0.3)


@dataclass(frozen=True)
class Trial:
    """One start of both processes. Cells must take long beside the duty cycle's 10 ms, or their medians mislead."""

    length: int
    rounds: int
    microbatches: int = 8
    sequences: int = 2  # in each
    hidden: int = 256
    layers: int = 8
    seed: int = 0

    @property
    def config(self) -> ModelConfig:
        """As Ling 2.0: the first block dense, the others sparse, and MTP, so that cells are unlike."""
        return ModelConfig(
            vocab_size=16 * self.hidden,
            hidden_size=self.hidden,
            layers=self.layers,
            ffn_hidden=5 * self.hidden // 2,
            max_positions=self.length,
            mtp_depth=1,
            attention=Attention(heads=self.hidden // 32, kv_heads=self.hidden // 64, head_dim=32, qk_norm=True),
            moe=Moe(experts=16, top_k=4, expert_hidden=self.hidden // 2, shared_experts=1, dense_layers=(0,)),
        )

    @property
    def batch_tokens(self) -> int:
        """Of a step."""
        return self.microbatches * self.sequences * self.length

    @property
    def message_bytes(self) -> int:
        """Of hidden states in float32."""
        return 4 * self.sequences * self.length * self.hidden


@dataclass(frozen=True)
class Found:
    """What came of it, by cut."""

    seconds: dict[str, list[float]]  # of each step, until both ranks are done
    predicted: dict[str, float]  # seconds, written down before any step was run
    cells: dict[str, list[int]]  # of each rank
    loss: dict[str, float]
    slowed: dict[str, Any]  # how, and what of a core a spin loop got
    profiles: list[dict[str, dict[str, float]]]  # seconds, by rank, cell and kind


def run(trial: Trial, folder: Path) -> Found:
    """Start both ranks, one under a duty cycle. Raises NotAllowed where that isn't to be had."""
    from grainline.hardware.unequal import slowed

    how: dict[str, Any] = {}

    @contextmanager
    def one_slow(pids: Sequence[int]) -> Iterator[None]:
        with slowed(pids[SLOW], SHARE) as found:
            how.update(share=found.share, how=found.how, spin_share=found.spin_share, free_share=found.free_share)
            yield

    ends = run_ranks(_work, trial, RANKS, folder, rule=one_slow)
    before = ends[0]["before"]
    return Found(
        seconds={which: [max(b) for b in zip(*(e["seconds"][which] for e in ends), strict=True)] for which in CUTS},
        predicted=before["predicted"],
        cells=before["cells"],
        loss={which: sum(end["loss"][which] for end in ends) for which in CUTS},
        slowed=how,
        profiles=before["profiles"],
    )


def _work(trial: Trial, connection: Connection, folder: Path) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    from grainline.parallel.pipeline.profile import profile_cells
    from grainline.parallel.pipeline.profile_messages import gathered, profile_messages

    batches = _batches(trial)
    messages = profile_messages(connection, trial.message_bytes)
    dist.barrier()
    profiles = gathered(profile_cells(trial.config, batches[0], LOSS, dtype=torch.float32))
    laid = {
        which: lay_out(trial.config, "1f1b", trial.microbatches, profiles, which, trial.message_bytes) for which in CUTS
    }
    before = {
        "predicted": {which: predicted_seconds(trial.config, of, messages) for which, of in laid.items()},
        "cells": {which: [len(stage) for stage in of.stages] for which, of in laid.items()},
        "messages": asdict(messages),
        "profiles": [{c: {kind.value: s for kind, s in of.items()} for c, of in p.items()} for p in profiles],
    }
    if connection.rank == 0:
        (folder / "predicted.json").write_text(json.dumps(before))
    dist.barrier()
    loss: dict[str, float] = {}
    with ExitStack() as stack:
        turns: dict[str, Callable[[], None]] = {}
        for which, of in laid.items():
            runtime = stack.enter_context(_runtime(trial, of, connection))
            turns[which] = partial(_turn, trial, runtime, batches, partial(loss.__setitem__, which))
        seconds = alternate(turns, rounds=trial.rounds)
    before = json.loads((folder / "predicted.json").read_text())
    return {"seconds": seconds, "loss": loss, "before": before}


@contextmanager
def _runtime(trial: Trial, laid: Laid, connection: Connection) -> Iterator[PipelineRuntime]:
    """Of this rank."""
    import torch

    from grainline.models.build import build

    model = build(trial.config, seed=trial.seed, cells=laid.stages[connection.rank])
    model.compute_dtype = torch.float32
    runtime = connection.runtime(laid.schedule, laid.stages, model, loss=LOSS, batch_tokens=trial.batch_tokens)
    try:
        yield runtime
    finally:
        runtime.close()


def _turn(trial: Trial, runtime: PipelineRuntime, batches: list[Batch], tell: Callable[[float], None]) -> None:
    """A step of this rank, until both are done."""
    import torch.distributed as dist

    runtime.model.zero_grad()
    result = runtime.step(batches)
    dist.barrier()
    tell(sum(sums.objective(LOSS, trial.batch_tokens).item() for _, sums in result.sums))


def _batches(trial: Trial) -> list[Batch]:
    import torch

    from grainline.models.cells import Batch

    generator = torch.Generator().manual_seed(trial.seed)
    shape = trial.sequences, trial.length + 1
    drawn = [torch.randint(trial.config.vocab_size, shape, generator=generator) for _ in range(trial.microbatches)]
    return [Batch.of(trial.config, ids_BS1) for ids_BS1 in drawn]
