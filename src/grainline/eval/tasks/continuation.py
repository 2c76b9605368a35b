"""How well the model foresees given continuations: bits per byte of each after its context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grainline.eval.likelihood import Query, Scorer
from grainline.eval.tasks.task import Sample, TaskResult


@dataclass(frozen=True)
class Passage:
    """A text and what really came after it."""

    context: str
    continuation: str
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Continuation:
    """bits_per_byte of the continuations; 2 to the power of bits_per_token would be their perplexity per token."""

    name: str
    passages: tuple[Passage, ...]

    @property
    def size(self) -> int:
        """Texts to score."""
        return len(self.passages)

    def run(self, scorer: Scorer, progress: Callable[[int], None] | None = None) -> TaskResult:
        """See `EvalTask`."""
        queries = [Query(passage.continuation, passage.context) for passage in self.passages]
        samples = [
            Sample(
                {"bits_per_byte": (cost.bits, cost.bytes), "bits_per_token": (cost.bits, cost.tokens)},
                {
                    **passage.about,
                    "context": passage.context,
                    "continuation": passage.continuation,
                    "bits": cost.bits,
                    "bytes": cost.bytes,
                    "tokens": cost.tokens,
                },
            )
            for passage, cost in zip(self.passages, scorer.score(queries, progress), strict=True)
        ]
        return TaskResult(self.name, tuple(samples), {})
