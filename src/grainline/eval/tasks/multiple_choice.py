"""Multiple choice by likelihood: the model answers with the choice that it finds most likely after the context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grainline.eval.likelihood import Likelihood, Query, Scorer
from grainline.eval.tasks.task import Sample, TaskResult


@dataclass(frozen=True)
class Question:
    """`choices` are texts that could follow `context`; `answer` is the index of the true one."""

    context: str
    choices: tuple[str, ...]
    answer: int
    about: Mapping[str, Any] = field(default_factory=dict)  # kept with the sample: where it comes from


@dataclass(frozen=True)
class MultipleChoice:
    """accuracy: the most likely choice is right. accuracy_per_byte: the most likely per byte is right.

    Both as in lm-evaluation-harness (acc and acc_norm). Equal likelihoods count for the lowest index.
    """

    name: str
    questions: tuple[Question, ...]

    @property
    def size(self) -> int:
        """Texts to score: all choices."""
        return sum(len(question.choices) for question in self.questions)

    def run(self, scorer: Scorer, progress: Callable[[int], None] | None = None) -> TaskResult:
        """See `EvalTask`."""
        queries = [Query(choice, question.context) for question in self.questions for choice in question.choices]
        answers = iter(scorer.score(queries, progress))
        samples = [_judged(question, [next(answers) for _ in question.choices]) for question in self.questions]
        chance = sum(1 / len(question.choices) for question in self.questions) / len(self.questions)
        return TaskResult(self.name, tuple(samples), {"accuracy": chance, "accuracy_per_byte": chance})


def _judged(question: Question, costs: list[Likelihood]) -> Sample:
    bits = [cost.bits for cost in costs]
    per_byte = [cost.bits / cost.bytes for cost in costs]
    right = bits.index(min(bits)) == question.answer
    right_per_byte = per_byte.index(min(per_byte)) == question.answer
    return Sample(
        {"accuracy": (float(right), 1.0), "accuracy_per_byte": (float(right_per_byte), 1.0)},
        {
            **question.about,
            "context": question.context,
            "choices": list(question.choices),
            "answer": question.answer,
            "bits": bits,
            "right": right,
            "right_per_byte": right_per_byte,
        },
    )
