"""What a run will need, before it starts: memory, disk and time, by formula. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from grainline.documents import ModelConfig, Recipe
from grainline.models.count import flops_per_token, parameters
from grainline.plan import memory
from grainline.plan.expert_work import ExpertWork, expert_work
from grainline.plan.memory import PARAMETER, MicroBatch
from grainline.schedule.cells import cells_of
from grainline.train.learning_rate import merge_steps

UTILISATION = 0.4
"""Share of the measured matmul rate that training is taken to reach; a run's own is the `mfu` in its metrics."""

SCRATCH_BYTES = 4 * PARAMETER << 25
"""What Muon needs at most beside its state, for one batch of matrices."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int  # with the weights' copies in the compute dtype, and the output layer's gradient
    working: int  # the optimiser's scratch

    @property
    def total(self) -> int:
        """All at the same time: at the end of a backward pass."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.working


@dataclass(frozen=True)
class Disk:
    """Bytes under the run's folder."""

    checkpoints: int
    weights: int  # best, wsm window, and the models at the end
    data: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.checkpoints + self.weights + self.data


@dataclass(frozen=True)
class Estimate:
    """Memory, disk and time of a run."""

    parameters: int
    active_parameters: int
    experts: ExpertWork | None  # None where there are none
    tokens: int
    flops: float
    memory: Memory
    disk: Disk
    seconds: float | None  # None where no matmul rate is known
    tokens_per_second: float | None

    def at(self, tokens_per_second: float) -> Estimate:
        """The same at a speed that was measured."""
        return replace(self, tokens_per_second=tokens_per_second, seconds=self.tokens / tokens_per_second)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; totals included."""
        values = asdict(self)
        values["memory"]["total"] = self.memory.total
        values["disk"]["total"] = self.disk.total
        return values


def estimate(
    recipe: Recipe,
    config: ModelConfig,
    *,
    micro_batch_sequences: int,
    compute: str,
    device: str,
    recompute: bool,
    ranks: int,
    stages: int = 1,
    sharded: bool,
    data_bytes: int,
    flops_per_second: float | None,
) -> Estimate:
    """`flops_per_second` is the measured matmul rate of all ranks together; `data_bytes` the packed data's size.

    A pipeline of so many `stages` is taken to be cut evenly, and to hold as many micro-batches as ranks (1F1B).
    `device` is "cpu", "cuda" or "mps".
    """
    count = parameters(config)
    total = count.total + count.mtp
    state = memory.state_bytes(memory.parameters_of_all(config, cells_of(config)), recipe.optimizer.kind)
    shares = ranks if sharded else stages
    writes_scores = device == "cpu" and compute == "bfloat16"
    batch = MicroBatch(micro_batch_sequences, recipe.data.sequence_length, compute, writes_scores=writes_scores)
    weights = round(state.parameters)
    merged = len(merge_steps(recipe.learning_rate, recipe.training.steps))
    all_tokens = recipe.training.steps * recipe.training.batch_tokens
    flops = all_tokens * flops_per_token(config, recipe.data.sequence_length, mtp=1 / recipe.loss.mtp_every)
    seconds = flops / (UTILISATION * flops_per_second) if flops_per_second else None
    return Estimate(
        parameters=total,
        active_parameters=count.active,
        experts=expert_work(config, compute),
        tokens=all_tokens,
        flops=flops,
        memory=Memory(
            parameters=weights // shares,
            gradients=round(state.gradients) // shares,
            optimizer=round(state.optimizer) // shares,
            activations=activation_bytes(config, batch, recompute),
            working=min(SCRATCH_BYTES, 4 * weights),
        ),
        disk=Disk(
            checkpoints=(recipe.checkpoint.keep + 1)
            * (weights + round(state.optimizer)),  # one more while it is being written
            weights=weights * (2 + merged + (3 if merged else 2)),
            data=data_bytes,
        ),
        seconds=seconds,
        tokens_per_second=all_tokens / seconds if seconds else None,
    )


def activation_bytes(config: ModelConfig, batch: MicroBatch, recompute: bool) -> int:
    """What all cells keep of a micro-batch between forward and backward, see `plan.memory.kept_bytes`.

    With recomputation blocks keep their input alone, but for the one whose backward is going on.
    """
    cells = cells_of(config)
    kept = {cell: memory.kept_bytes(config, cell, batch) for cell in cells}
    if not recompute:
        return round(sum(kept.values()))
    again = [cell for cell in cells if cell.kind in ("dense", "moe", "mtp")]
    inputs = sum(memory.input_bytes(config, cell, batch) for cell in again)
    if config.mtp_depth:  # it is given the next tokens' embeddings, too, and the trunk's norm isn't run again
        inputs += 2 * memory.output_bytes(config, cells[0], batch)
    return round(sum(kept.values()) - sum(kept[cell] for cell in again) + inputs + max(kept[cell] for cell in again))
