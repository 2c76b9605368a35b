"""A plan's [pipeline] as what the runtime carries out: schedules with their messages, and the cells of each stage."""

from __future__ import annotations

from dataclasses import dataclass

from grainline.documents import GrainlineError, ModelConfig
from grainline.documents.plan import Pipeline
from grainline.parallel.pipeline.boundary import Cells
from grainline.parallel.pipeline.vocabulary import rows_of
from grainline.parallel.pipeline.vocabulary_passes import without_vocabulary
from grainline.schedule import Kind, Schedule, ScheduleError, add_messages
from grainline.schedule.cells import cells_of, stages_of
from grainline.schedule.cut import equal_cut
from grainline.schedule.offload import with_offload
from grainline.schedule.recompute import with_recompute
from grainline.schedule.table import make_schedule
from grainline.schedule.vocabulary import Algorithm, add_vocabulary_passes, why_no_steady_state


@dataclass(frozen=True)
class ResolvedPipeline:
    """What training and evaluation carry out, on the same stages.

    With an `algorithm` of vocabulary parallelism stages have neither embedding nor heads: every rank has some rows.
    """

    training: Schedule
    evaluation: Schedule
    stages: tuple[Cells, ...]
    algorithm: Algorithm | None = None

    def cells_of(self, rank: int) -> Cells:
        """Those that a rank must hold."""
        own = tuple(cell for stage in self.training.stages_of(rank) for cell in self.stages[stage])
        return own if self.algorithm is None else (*own, "vocabulary")

    @property
    def remark(self) -> str | None:
        """What a person should know before it runs."""
        if self.algorithm is None:
            return None
        return why_no_steady_state(self.training.ranks, self.training.microbatches, self.algorithm)


def resolve(pipeline: Pipeline, config: ModelConfig) -> ResolvedPipeline:
    """Raises GrainlineError for what can't be: an unknown schedule, or more stages than the model can fill."""
    assert pipeline.microbatches is not None
    bare = make_schedule(pipeline.schedule, pipeline.ranks, pipeline.microbatches)
    cells = cells_of(config)
    try:
        cut = equal_cut(cells, bare.stages) if isinstance(pipeline.cut, str) else pipeline.cut
        stages = tuple(tuple(cell.name for cell in stage) for stage in stages_of(cells, cut))
    except (ScheduleError, ValueError) as error:
        raise GrainlineError(f"The plan's pipeline.cut can't be: {error}.") from None
    training, evaluation, algorithm = bare, forward_only(bare), None
    if pipeline.vocabulary != "plain":
        algorithm = pipeline.vocabulary
        if not rows_of(config.vocab_size, pipeline.ranks - 1, pipeline.ranks):
            raise GrainlineError(
                f"A vocabulary of {config.vocab_size} leaves some of {pipeline.ranks} ranks without a row. Set the "
                "plan's pipeline.vocabulary = 'plain'."
            )
        stages = without_vocabulary(config, stages)
        training, evaluation = (add_vocabulary_passes(s, algorithm) for s in (training, evaluation))
    training = with_recompute(training, pipeline.recompute)
    training = with_offload(training) if pipeline.offload else training
    return ResolvedPipeline(add_messages(training), add_messages(evaluation), stages, algorithm)


def forward_only(schedule: Schedule) -> Schedule:
    """The forwards of a bare schedule in their order: what a look at held-out text carries out."""
    lists = [[a for a in actions if a.kind is Kind.F] for actions in schedule.actions]
    return schedule.with_actions(lists, f"{schedule.name}, forwards")
