"""From a strategy to the Plan document that records it, and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from grainline.documents import GrainlineError, Plan
from grainline.documents.plan import Execution, Layout, Pipeline
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.strategy import Recompute, Strategy


def cells_of_model(cells: Sequence[str], cut: Sequence[int]) -> tuple[int, ...]:
    """A cut of a problem's cells as one of the model's: multi-token prediction is one cell there, and two here."""
    ends = [0, *accumulate(cut)]
    return tuple(size + cells[end - size : end].count("mtp") for size, end in zip(cut, ends[1:], strict=True))


def cells_of_problem(cells: Sequence[str], cut: Sequence[int]) -> tuple[int, ...]:
    """The other way. Raises GrainlineError where multi-token prediction is cut in two."""
    places = [i for i, cell in enumerate(cells) for _ in range(2 if cell == "mtp" else 1)]
    ends = [0, *accumulate(cut)]
    if ends[-1] != len(places):
        raise GrainlineError(f"pipeline.cut {list(cut)} adds up to {ends[-1]} cells, and the model has {len(places)}.")
    stages = [places[a:b] for a, b in pairwise(ends)]
    if any(a and b and a[-1] == b[0] for a, b in pairwise(stages)):
        raise GrainlineError("pipeline.cut parts multi-token prediction from its head, which the planner can't cost.")
    return tuple(len(set(stage)) for stage in stages)


def to_plan(strategy: Strategy, batch_sequences: int, cut: Sequence[int] = (), fleet: Fleet | None = None) -> Plan:
    """The plan of a strategy; `cut` as in its Estimate, `fleet` in the order that its ranks sit on."""
    st = strategy
    pipeline = None
    if st.pipeline > 1:
        pipeline = Pipeline(
            ranks=st.pipeline,
            schedule=st.schedule,
            microbatches=st.microbatches(batch_sequences),
            chunks=st.chunks,
            cut=tuple(cut) or "auto",
            recompute="always" if st.recompute == "full" else "never",
        )
    block = "block" if st.recompute == "full" and pipeline is None else "none"
    layout = Layout(
        data_parallel=st.data,
        shard=st.shard,
        tensor_parallel=st.tensor,
        sequence_parallel=st.sequence_parallel,
        context_parallel=st.context,
        expert_parallel=st.expert,
        expert_tensor_parallel=st.expert_tensor,
        devices=() if fleet is None else fleet.names(st.ranks),
    )
    execution = Execution(
        micro_batch_sequences=st.sequences, recompute="attention" if st.recompute == "attention" else block
    )
    return Plan(layout=layout, execution=execution, pipeline=pipeline)


def to_strategy(plan: Plan, batch_sequences: int) -> Strategy:
    """The strategy that a plan stands for. Raises GrainlineError for what a strategy can't say, naming the key."""
    layout, pipeline = plan.layout, plan.pipeline
    share, rest = divmod(batch_sequences, layout.data_parallel)
    if rest:
        raise GrainlineError(
            f"layout.data_parallel {layout.data_parallel} doesn't divide the batch of {batch_sequences} sequences."
        )
    sequences = plan.execution.micro_batch_sequences
    recompute: Recompute = "full" if plan.execution.recompute == "block" else plan.execution.recompute
    if pipeline is not None:
        if pipeline.paths is not None:
            raise GrainlineError("pipeline.paths: a partial pipeline isn't one of the layouts that are searched.")
        if pipeline.microbatches is not None:
            if share % pipeline.microbatches:
                raise GrainlineError(
                    f"pipeline.microbatches {pipeline.microbatches} doesn't divide the {share} sequences of a pipeline."
                )
            sequences = share // pipeline.microbatches
        if pipeline.recompute == "always":
            recompute = "full"
    sequences = sequences or 1
    if share % sequences:
        raise GrainlineError(
            f"execution.micro_batch_sequences {sequences} doesn't divide the {share} sequences of a replica."
        )
    row = layout.tensor_parallel * layout.context_parallel * layout.data_parallel
    if row % (layout.expert_parallel * layout.expert_tensor_parallel):
        raise GrainlineError(
            f"layout.expert_parallel {layout.expert_parallel} times expert_tensor_parallel "
            f"{layout.expert_tensor_parallel} doesn't divide the {row} ranks of tensor × context × data parallel."
        )
    return Strategy(
        tensor=layout.tensor_parallel,
        context=layout.context_parallel,
        data=layout.data_parallel,
        pipeline=1 if pipeline is None else pipeline.ranks,
        expert=layout.expert_parallel,
        expert_tensor=layout.expert_tensor_parallel,
        sequences=sequences,
        chunks=1 if pipeline is None else pipeline.chunks or 1,
        schedule="1f1b" if pipeline is None else pipeline.schedule,
        recompute=recompute,
        shard=layout.shard,
        sequence_parallel=layout.sequence_parallel,
    )
