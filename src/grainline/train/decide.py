"""What recipe and plan leave open (compute dtype, micro-batch, threads, ranks), decided once per run."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from typing import Any

from grainline._progress import counts
from grainline.documents import ModelConfig, Plan, Recipe
from grainline.documents.recipe import Precision
from grainline.hardware import Machine
from grainline.parallel import Ranks
from grainline.plan.pipeline import Resolved
from grainline.train.estimate import Estimate, estimate
from grainline.train.lay_out import lay_out

MEMORY_SHARE = 0.6
"""Of the memory that is free: the rest is for what the formulas don't know."""

MAX_MICRO_BATCH_TOKENS = {"cpu": 8192, "mps": 16384, "cuda": 65536}
"""More tokens in one pass make it no faster."""

COMPILE_FROM_STEPS = 2000
"""A shorter run, on a GPU, doesn't earn back what compiling takes."""


@dataclass(frozen=True)
class Decision:
    """A plan with nothing left open, and the dtype that matrix products are computed in."""

    plan: Plan
    compute: str
    pipeline: Resolved | None = None  # the plan's, cut and scheduled

    @property
    def micro_batch_sequences(self) -> int:
        """Sequences in one forward pass."""
        assert self.plan.execution.micro_batch_sequences is not None
        return self.plan.execution.micro_batch_sequences

    @property
    def threads(self) -> int:
        """CPU threads of one rank."""
        assert self.plan.execution.threads is not None
        return self.plan.execution.threads


def decide(
    recipe: Recipe, plan: Plan, config: ModelConfig, machine: Machine, ranks: Ranks, before: dict[str, Any]
) -> Decision:
    """Fill in what is open. `before` is what an earlier start of the run decided: kept, so that a resumed run computes
    alike. On another kind of device nothing of it is; with other ranks, threads and micro-batch aren't, which are a
    rank's share of the machine and of the batch.
    """
    device = ranks.device.type
    if before.get("device") != device:
        before = {}
    elif before.get("ranks") != ranks.world:
        before = {"compute": before.get("compute")}
    compute = recipe.precision.compute
    if compute == "auto":
        compute = before.get("compute") or ("bfloat16" if machine.bfloat16_pays(device) else "float32")
    threads = plan.execution.threads or before.get("threads") or max(1, machine.threads // ranks.local_world)
    replicas = ranks.world if plan.pipeline is None else ranks.world // plan.pipeline.ranks
    layout = plan.layout.model_copy(update={"data_parallel": replicas})
    pipeline: Resolved | None = None
    if plan.pipeline is not None:
        computed = recipe.model_copy(update={"precision": Precision(compute=compute)})
        pipeline = lay_out(plan.model_copy(update={"layout": layout}), config, computed, machine, ranks)

    def with_micro_batch(sequences: int) -> Decision:
        execution = plan.execution.model_copy(
            update={
                "micro_batch_sequences": sequences,
                "threads": threads,
                "device": device,
                "compile": "on" if _compiles(recipe, plan, device) else "off",
            }
        )
        tables = {"layout": layout, "execution": execution, "pipeline": pipeline.pipeline if pipeline else None}
        return Decision(plan.model_copy(update=tables), compute, pipeline)

    if pipeline is not None:
        return with_micro_batch(pipeline.batch.sequences)
    micro = plan.execution.micro_batch_sequences or before.get("micro_batch_sequences")
    if micro is None:
        free = MEMORY_SHARE * free_memory_bytes(machine, ranks)
        sizes = range(_largest_useful(recipe, ranks), 1, -1)
        needs = ((n, estimate_run(recipe, config, with_micro_batch(n), machine, ranks, 0).memory.total) for n in sizes)
        micro = next((n for n, need in needs if need <= free), 1)
    return with_micro_batch(micro)


def crowding(threads: int, machine: Machine) -> str | None:
    """What a person should know of a rank with more threads than there are cores to run them; None if nothing."""
    if threads <= machine.threads:
        return None
    return (
        f"{threads} threads share {counts(machine.threads, 'core')} and wait for each other, which may be many times "
        f"as slow: leave out execution.threads, or set {machine.threads}."
    )


def peak_flops(machine: Machine, ranks: Ranks, compute: str) -> float | None:
    """The measured matmul rate of all ranks together; None where none was measured."""
    rate = machine.matmul_rates(ranks.device.type).get(compute)
    # A CPU's rate is of all its cores, which the ranks on it share.
    times = ranks.world // ranks.local_world if ranks.device.type == "cpu" else ranks.world
    return rate * times if rate else None


def estimate_run(
    recipe: Recipe, config: ModelConfig, decision: Decision, machine: Machine, ranks: Ranks, data_bytes: int
) -> Estimate:
    """`estimate` for what was decided."""
    return estimate(
        recipe,
        config,
        micro_batch_sequences=decision.micro_batch_sequences,
        compute=decision.compute,
        device=ranks.device.type,
        recompute=decision.plan.execution.recompute == "block",
        ranks=ranks.world,
        stages=1 if decision.plan.pipeline is None else decision.plan.pipeline.ranks,
        sharded=decision.plan.layout.shard == "full",
        data_bytes=data_bytes,
        flops_per_second=peak_flops(machine, ranks, decision.compute),
    )


def free_memory_bytes(machine: Machine, ranks: Ranks) -> int:
    """That one rank may count on."""
    if ranks.device.type == "cpu" or not machine.accelerators:
        return machine.memory_available_bytes // ranks.local_world
    return machine.accelerators[0].memory_bytes


def _largest_useful(recipe: Recipe, ranks: Ranks) -> int:
    """Sequences beyond which a pass gets no faster, or that a rank hasn't got."""
    useful = MAX_MICRO_BATCH_TOKENS.get(ranks.device.type, 8192) // recipe.data.sequence_length
    return max(1, min(useful, -(-recipe.batch_sequences // ranks.world)))


def _compiles(recipe: Recipe, plan: Plan, device: str) -> bool:
    """Compiling takes minutes, and on CPUs it has gained nothing over the kernels that are there."""
    wanted = plan.execution.compile
    pays = device == "cuda" and recipe.training.steps >= COMPILE_FROM_STEPS
    return wanted == "on" or (wanted == "auto" and pays and can_compile())


def can_compile() -> bool:
    """Whether torch.compile has what it needs for GPUs: Triton, and a C compiler for Triton's launchers."""
    compilers = filter(None, (os.environ.get("CC"), "cc", "gcc", "clang"))
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))
