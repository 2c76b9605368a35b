"""Pipelines with vocabulary passes that ranks and one process alone must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pipeline_cases import Case

from grainline.schedule import Kind, Schedule, add_messages
from grainline.schedule.passes.recompute import with_recompute
from grainline.schedule.passes.vocabulary import Algorithm, add_vocabulary_passes
from grainline.schedule.passes.vocabulary_baselines import interlaced
from grainline.schedule.table import make_schedule


@dataclass(frozen=True)
class VocabularyCase(Case):
    """`cut` counts the cells of the whole model: those of the vocabulary become passes."""

    algorithm: Algorithm = "vocab2"
    evaluates: bool = False

    def made(self, ranks: int) -> Schedule:
        """The schedule, with passes and messages."""
        if self.schedule == "interlaced":
            return self.end(add_messages(interlaced(ranks, self.microbatches), self.lookahead))
        bare = make_schedule(self.schedule, ranks, self.microbatches)
        if self.evaluates:
            bare = bare.with_actions([[a for a in actions if a.kind is Kind.F] for actions in bare.actions])
        with_passes = add_vocabulary_passes(self.change(bare), self.algorithm)
        return self.end(add_messages(with_passes, self.lookahead))


def _all(algorithms: dict[Algorithm, tuple[str, ...]], what: str = "", **options: Any) -> dict[str, VocabularyCase]:
    """The schedules to try with each algorithm."""
    return {
        f"{what}{schedule}, {algorithm}": VocabularyCase(schedule, algorithm=algorithm, **options)
        for algorithm, schedules in algorithms.items()
        for schedule in schedules
    }


TWO = {
    **_all({"vocab1": ("1f1b", "interleaved", "zb-h1"), "vocab2": ("gpipe", "1f1b", "v-half", "dualpipe-v")}),
    **_all({"vocab1": ("zb-v",), "vocab2": ("1f1b",)}, "mla, tied, ", model="mla-tied"),
    **_all({"vocab1": ("1f1b",), "vocab2": ("breadth-first",)}, "dense, tied, ", model="dense-tied", documents=True),
    **_all({"vocab1": ("gpipe",), "vocab2": ("interleaved",)}, "evaluating, ", evaluates=True, model="mla-tied"),
    "lock-step": VocabularyCase("interlaced", "ling", algorithm="vocab1", microbatches=5),
    "float32": VocabularyCase("1f1b", dtype=torch.float32),
    "float32, vocab1": VocabularyCase("1f1b", dtype=torch.float32, algorithm="vocab1"),
    "bfloat16": VocabularyCase("1f1b", dtype=torch.bfloat16),
    "bfloat16, dense": VocabularyCase("1f1b", "dense-tied", dtype=torch.bfloat16, algorithm="vocab1"),
    "recomputed": VocabularyCase("1f1b", change=lambda s: with_recompute(s, "always")),
    "recomputed after": VocabularyCase("zb-h1", end=lambda s: with_recompute(s, "always")),
    "one micro-batch": VocabularyCase("1f1b", microbatches=1, algorithm="vocab1"),
    "head and embedding alone": VocabularyCase("interleaved", cut=(1, 3, 1, 2)),  # two stages have nothing left
    "dense, split": VocabularyCase("zb-h1", "dense-tied", cut=(5, 1)),
}
FOUR = {
    **_all({"vocab1": ("1f1b",), "vocab2": ("v-half",)}, microbatches=8),
    "two replicas": VocabularyCase("1f1b", "mla-tied", replicas=2),
    "two replicas, vocab1": VocabularyCase("zb-h1", replicas=2, algorithm="vocab1"),
}
WORLDS = {2: TWO, 4: FOUR}
