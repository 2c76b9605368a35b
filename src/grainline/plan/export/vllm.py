"""vLLM: the flags of `vllm serve`."""

from __future__ import annotations

from collections.abc import Iterator

from grainline.documents import GrainlineError
from grainline.plan.export.common import Exported, Flag, Run


def vllm(run: Run) -> Exported:
    """Raises GrainlineError for what can't be served so."""
    if run.plan.layout.context_parallel > 1:
        raise GrainlineError("vLLM takes no context parallelism from a plan: set layout.context_parallel = 1.")
    return Exported(f"vllm serve {run.model}", tuple(_flags(run)))


def _flags(run: Run) -> Iterator[Flag]:
    layout, pipeline = run.plan.layout, run.plan.pipeline
    yield "--tensor-parallel-size", str(layout.tensor_parallel)
    if pipeline is not None:
        yield "--pipeline-parallel-size", str(pipeline.ranks)
    if layout.data_parallel > 1:
        yield "--data-parallel-size", str(layout.data_parallel)
    if layout.expert_parallel > 1:
        yield ("--enable-expert-parallel",)
    yield "--max-model-len", str(run.length)
