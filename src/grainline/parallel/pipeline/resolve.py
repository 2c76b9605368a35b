"""A plan's [pipeline] as what the runtime carries out: schedules with their messages, and the cells of each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from grainline.documents import GrainlineError, ModelConfig
from grainline.parallel.pipeline.boundary import Cells
from grainline.parallel.pipeline.vocabulary import rows_of
from grainline.parallel.pipeline.vocabulary_passes import without_vocabulary
from grainline.plan.pipeline import Resolved
from grainline.schedule import Kind, Schedule, ScheduleError, add_messages, validate
from grainline.schedule.members.partial import straight
from grainline.schedule.passes.vocabulary import Algorithm, add_vocabulary_passes, why_no_steady_state

MOST_CHECKED = 5_000
"""Actions of all ranks, messages included; each takes the validator some ten microseconds."""


@dataclass(frozen=True)
class ResolvedPipeline:
    """What training and evaluation carry out, on the same stages.

    With an `algorithm` of vocabulary parallelism stages have neither embedding nor heads: every rank has some rows.
    """

    training: Schedule
    evaluation: Schedule
    stages: tuple[Cells, ...]
    algorithm: Algorithm | None = None
    gradient_mean: Literal["visits", "all"] = "visits"
    backwards: Literal["planned", "arrival"] = "planned"

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


def resolve(found: Resolved, config: ModelConfig) -> ResolvedPipeline:
    """Raises GrainlineError where ranks are more than rows of the vocabulary, or the lists can't be carried out."""
    whole = found.bare if found.pipeline.paths is None else straight(found.bare)  # text is scored with all stages
    evaluation, algorithm = forward_only(whole), None
    stages = tuple(tuple(cell.name for cell in stage) for stage in found.stages)
    if found.pipeline.vocabulary != "plain":
        algorithm, ranks = found.pipeline.vocabulary, found.pipeline.ranks
        if not rows_of(config.vocab_size, ranks - 1, ranks):
            raise GrainlineError(
                f"A vocabulary of {config.vocab_size} leaves some of {ranks} ranks without a row. Set the "
                "plan's pipeline.vocabulary = 'plain'."
            )
        if config.residual_scaling:
            raise GrainlineError(
                "residual_scaling scales embeddings where they are looked up, and with the vocabulary split they are "
                "sums over ranks. Set the plan's pipeline.vocabulary = 'plain'."
            )
        stages = without_vocabulary(config, stages)
        evaluation = add_vocabulary_passes(evaluation, algorithm)
    mean = found.pipeline.gradient_mean
    evaluation = add_messages(evaluation)
    _check(found.schedule, forward_only=False)
    _check(evaluation, forward_only=True)
    return ResolvedPipeline(found.schedule, evaluation, stages, algorithm, mean, found.pipeline.backwards)


def _check(schedule: Schedule, *, forward_only: bool) -> None:
    """Before ranks wait for each other for ever: the validator, where it takes no time worth speaking of."""
    if sum(map(len, schedule.actions)) > MOST_CHECKED:
        return
    try:
        validate(schedule, forward_only=forward_only)
    except ScheduleError as error:
        raise GrainlineError(
            f"The schedule '{schedule.name}' can't be carried out: {error}. Choose another (pipeline.schedule)."
        ) from None


def forward_only(schedule: Schedule) -> Schedule:
    """The forwards of a bare schedule in their order: what a look at held-out text carries out."""
    lists = [[a for a in actions if a.kind is Kind.F] for actions in schedule.actions]
    return schedule.with_actions(lists, f"{schedule.name}, forwards")
