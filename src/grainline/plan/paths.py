"""A plan's [pipeline] paths: micro-batches that each visit stages of their own, in an order of their own (SkipPipe)."""

from __future__ import annotations

from collections.abc import Sequence

from grainline.documents import GrainlineError
from grainline.documents.plan import Pipeline
from grainline.schedule import Schedule, ScheduleError, validate
from grainline.schedule.members.partial import in_unit_times, partial
from grainline.schedule.schedule import Hop


def partial_pipeline(pipeline: Pipeline) -> Pipeline:
    """A pipeline of paths with their number of micro-batches; GrainlineError where another key says otherwise."""
    assert pipeline.paths is not None
    count = len(pipeline.paths)
    if pipeline.microbatches not in (None, count):
        raise GrainlineError(f"pipeline.microbatches is {pipeline.microbatches}, and pipeline.paths are of {count}.")
    if pipeline.vocabulary != "plain":
        raise GrainlineError("pipeline.vocabulary: every rank takes part in its passes; leave it out beside paths.")
    if pipeline.placement is not None:
        raise GrainlineError("pipeline.placement: paths say it already; leave it out.")
    # Chunks are written into plans that have been carried out; paths know of as many stages as they visit.
    return pipeline.model_copy(update={"microbatches": count, "chunks": None})


def along(paths: Sequence[Sequence[tuple[int, int]]], starts: Sequence[Sequence[float]] | None, ranks: int) -> Schedule:
    """Bare compute along paths, in the order of their starts."""
    hops = [tuple(Hop(*hop) for hop in path) for path in paths]
    try:
        found = partial(hops, in_unit_times(hops) if starts is None else starts, ranks)
        validate(found)
    except ScheduleError as error:
        raise GrainlineError(f"The plan's pipeline.paths can't be: {error}.") from None
    for stage in range(found.stages):
        if not found.holders(stage):
            raise GrainlineError(
                f"The plan's pipeline.paths can't be: no micro-batch visits stage {stage}. Plan for more micro-batches "
                "at once, or fewer slots."
            )
    return found
