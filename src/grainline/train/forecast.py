"""What a run would take, without starting it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grainline.data.files import refuse_inside
from grainline.documents import ModelConfig, Plan, Recipe
from grainline.hardware import look
from grainline.parallel import Ranks, refuse_unsupported
from grainline.parallel.ranks import pick_device
from grainline.train.batches import check_shares
from grainline.train.corpus import foreseen_bytes
from grainline.train.decide import Decision, decide, estimate_run, free_memory_bytes
from grainline.train.documents import read_plan, read_recipe
from grainline.train.estimate import Estimate
from grainline.train.files import RunFolder
from grainline.train.foresee import check_pipeline, foreseen_model
from grainline.train.speed import PASSES, measured_tokens_per_second

LONGEST_SECONDS = 10.0
"""What timing may take by formula; it may be several times as long in truth."""


@dataclass(frozen=True)
class DryRun:
    """What a run needs, what there is, and what was decided."""

    estimate: Estimate
    speed_is_measured: bool  # else it is a share of the matmul rate, or not known
    config: ModelConfig
    plan: Plan
    compute: str
    free_memory_bytes: int  # of one rank
    free_disk_bytes: int

    @property
    def shortages(self) -> list[str]:
        """What there isn't enough of, in words."""
        found = []
        for name, need, free in (
            ("memory", self.estimate.memory.total, self.free_memory_bytes),
            ("disk", self.estimate.disk.total, self.free_disk_bytes),
        ):
            if need > free:
                found.append(f"{name}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.estimate.as_dict(),
            "speed_is_measured": self.speed_is_measured,
            "free_memory_bytes": self.free_memory_bytes,
            "free_disk_bytes": self.free_disk_bytes,
            "shortages": self.shortages,
            "compute": self.compute,
            "plan": self.plan.tables(),
            "model": self.config.tables(),
        }


def dry_run(
    recipe: Recipe | str | Path,
    plan: Plan | str | Path | None = None,
    *,
    out: str | Path,
    overrides: Iterable[str] = (),
    data: str | Path | None = None,
    measure: bool = True,
) -> DryRun:
    """Estimate memory, disk and time of `train` with the same arguments. Reads no text.

    The ranks are those that the plan says (one without a plan), all on this machine. With `measure` a few passes are
    timed, if they fit into memory and take no more than a moment; otherwise time is FLOPs over a share of the measured
    matmul rate. Raises GrainlineError for what `train` would refuse before it reads the text.
    """
    recipe, plan = read_recipe(recipe, overrides), read_plan(plan)
    files = RunFolder(Path(out), recipe.checkpoint.keep)
    world = plan.layout.data_parallel * (1 if plan.pipeline is None else plan.pipeline.ranks)
    ranks = Ranks(pick_device(plan.execution.device, 0), 0, world, world)
    refuse_unsupported(plan, ranks)
    refuse_inside(files.out, recipe.data.text)
    check_shares(recipe, plan, ranks)
    config = foreseen_model(recipe)
    if plan.pipeline is not None:
        check_pipeline(recipe, plan, config, ranks)
    machine = look(disk=files.out)
    decision = decide(recipe, plan, config, machine, ranks, files.read_run())
    data_bytes = foreseen_bytes(recipe, Path(data) if data else files.data)
    found = estimate_run(recipe, config, decision, machine, ranks, data_bytes)
    free_memory = free_memory_bytes(machine, ranks)
    # What passes take in this process says little of a pipeline; `grainline simulate` does.
    measure = measure and plan.pipeline is None and found.memory.total <= free_memory
    measure = measure and _is_quick(found, recipe, decision)
    if measure:
        found = found.at(measured_tokens_per_second(recipe, config, decision, ranks))
    return DryRun(
        estimate=found,
        speed_is_measured=measure,
        config=config,
        plan=decision.plan,
        compute=decision.compute,
        free_memory_bytes=free_memory,
        free_disk_bytes=machine.disk_free_bytes,
    )


def _is_quick(found: Estimate, recipe: Recipe, decision: Decision) -> bool:
    """Whether a few passes take well under a minute: small ones on any machine, others by what is known of this one."""
    tokens = (PASSES + 1) * decision.micro_batch_sequences * recipe.data.sequence_length
    rate = found.tokens_per_second
    return found.parameters * tokens < 1e12 or (rate is not None and tokens / rate < LONGEST_SECONDS)
