"""What this runtime can run of what a plan may ask for."""

from __future__ import annotations

from grainline.documents import GrainlineError, Plan
from grainline.parallel.ranks import Ranks

SUPPORTED = frozenset({"data parallelism", "FSDP", "activation recomputation", "torch.compile"})


def refuse_unsupported(plan: Plan, ranks: Ranks) -> None:
    """Raise GrainlineError naming what the plan asks for and can't have: a feature, or ranks that aren't there."""
    missing = [feature for feature in plan.features if feature not in SUPPORTED]
    if missing:
        raise GrainlineError(f"The plan asks for {', '.join(missing)}, which this release of grainline can't run.")
    wanted = plan.layout.data_parallel
    if "data_parallel" in plan.layout.model_fields_set and wanted != ranks.world:
        raise GrainlineError(
            f"The plan's layout.data_parallel is {wanted}, but {ranks.world} "
            f"{'process was' if ranks.world == 1 else 'processes were'} started. "
            f"Run it under torchrun --nproc-per-node {wanted} (times the nodes), or change the plan."
        )
    if plan.layout.shard == "full" and ranks.device.type == "mps":
        raise GrainlineError("The plan asks for FSDP, which needs CPUs or CUDA GPUs. Set layout.shard = 'none'.")
