"""What this runtime can run of what a plan may ask for."""

from __future__ import annotations

from grainline.documents import GrainlineError, Plan
from grainline.parallel.ranks import Ranks

SUPPORTED = frozenset(
    {
        "data parallelism",
        "FSDP",
        "pipeline parallelism",
        "activation recomputation",
        "activation offloading",
        "vocabulary parallelism",
        "torch.compile",
    }
)


def refuse_unsupported(plan: Plan, ranks: Ranks) -> None:
    """Raise GrainlineError naming what the plan asks for and can't have: a feature, or ranks that aren't there."""
    missing = [feature for feature in plan.features if feature not in SUPPORTED]
    if missing:
        raise GrainlineError(
            f"The plan asks for {', '.join(missing)}, which this release of grainline can't run. Plan what it can with "
            "grainline plan train MODEL --engine grainline, or take this plan to another engine: grainline plan export."
        )
    pipeline = 1 if plan.pipeline is None else plan.pipeline.ranks
    wanted = plan.layout.data_parallel * pipeline
    fixed = "data_parallel" in plan.layout.model_fields_set
    if wanted != ranks.world if fixed else ranks.world % pipeline:
        asked = f"layout.data_parallel is {plan.layout.data_parallel}" if fixed else ""
        if plan.pipeline is not None:
            asked += f"{' and its ' if asked else ''}pipeline.ranks is {pipeline}"
        raise GrainlineError(
            f"The plan's {asked}, but {ranks.world} "
            f"{'process was' if ranks.world == 1 else 'processes were'} started. "
            f"Run it under torchrun --nproc-per-node {wanted} (times the nodes), or change the plan."
        )
    full = plan.layout.shard == "full"
    if plan.pipeline is not None and full:
        raise GrainlineError("The plan asks for a pipeline and for FSDP: set layout.shard = 'none', or leave one out.")
    if plan.pipeline is not None and ranks.device.type == "mps":
        raise GrainlineError(
            "The plan asks for a pipeline, which needs CPUs or CUDA GPUs: set execution.device = 'cpu'."
        )
    if full and ranks.device.type == "mps":
        raise GrainlineError("The plan asks for FSDP, which needs CPUs or CUDA GPUs. Set layout.shard = 'none'.")
