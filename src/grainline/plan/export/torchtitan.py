"""torchtitan: train.py's flags of layout and batch; its model flavours are chosen by name there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from grainline.documents import GrainlineError
from grainline.plan.export.common import Exported, Flag, Run, launcher, order_remarks
from grainline.schedule.cells import Cell, cells_of

SCHEDULES: Mapping[str, str] = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved": "Interleaved1F1B",
    "zb-v": "ZBVZeroBubble",
    "dualpipe-v": "DualPipeV",
}
"""Ours → torch.distributed.pipelining's."""


def torchtitan(run: Run) -> Exported:
    """Raises GrainlineError for what torchtitan has no flag for."""
    run.refuse(
        "torchtitan",
        "vocabulary parallelism",
        "activation offloading",
        "expert placement",
        "selective recomputation",
        "sharded optimizer",
    )
    layout = run.plan.layout
    if layout.expert_tensor_parallel > 1:
        raise GrainlineError("torchtitan doesn't split an expert's matrices: set layout.expert_tensor_parallel = 1.")
    remarks = (
        "Choose the model with --module and --config, and add data and checkpoints.",
        *order_remarks(run),
    )
    return Exported(f"{launcher(run)} -m torchtitan.train", tuple(_flags(run)), remarks)


def _flags(run: Run) -> Iterator[Flag]:
    layout, pipeline = run.plan.layout, run.plan.pipeline
    sharded = layout.shard == "full"
    yield "--parallelism.data_parallel_shard_degree", str(layout.data_parallel if sharded else 1)
    yield "--parallelism.data_parallel_replicate_degree", str(1 if sharded else layout.data_parallel)
    yield "--parallelism.tensor_parallel_degree", str(layout.tensor_parallel)
    yield "--parallelism.context_parallel_degree", str(layout.context_parallel)
    if run.config.moe is not None:
        yield "--parallelism.expert_parallel_degree", str(layout.expert_parallel)
    share = run.batch_sequences // layout.data_parallel
    local = run.micro_batch_sequences
    if pipeline is not None:
        if pipeline.schedule not in SCHEDULES:
            raise GrainlineError(f"torchtitan has no schedule '{pipeline.schedule}': it has {', '.join(SCHEDULES)}.")
        yield "--parallelism.pipeline_parallel_degree", str(pipeline.ranks)
        yield "--parallelism.pipeline_parallel_schedule", SCHEDULES[pipeline.schedule]
        yield "--parallelism.num_pp_microbatches", str(share // local)
        if isinstance(pipeline.cut, tuple):
            yield "--parallelism.pipeline_parallel_module_fqns_per_model_part", _modules(run, pipeline.cut)
        local = share
    yield "--training.local_batch_size", str(local)
    yield "--training.global_batch_size", str(run.batch_sequences)
    yield "--training.seq_len", str(run.length)
    again = run.plan.execution.recompute == "block" or (pipeline is not None and pipeline.recompute != "never")
    yield "--activation_checkpoint.mode", "full" if again else "none"


def _modules(run: Run, cut: tuple[int, ...]) -> str:
    cells, at, stages = cells_of(run.config), 0, []
    if sum(cut) != len(cells):
        raise GrainlineError(f"pipeline.cut {list(cut)} adds up to {sum(cut)} cells, and the model has {len(cells)}.")
    for size in cut:
        stages.append([name for cell in cells[at : at + size] for name in _names(cell)])
        at += size
    return repr(stages)


def _names(cell: Cell) -> tuple[str, ...]:
    match cell.kind:
        case "embedding":
            return ("tok_embeddings",)
        case "dense" | "moe":
            return (f"layers.{cell.layer}",)
        case "head":
            return ("norm", "output")
    raise GrainlineError("torchtitan has no multi-token prediction: plan for the model without it.")
