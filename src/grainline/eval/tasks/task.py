"""The `EvalTask` seam: examples and a scorer in, sample-level scores out; everything else is computed from those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from grainline.eval.bootstrap import Interval, ratio_interval
from grainline.eval.likelihood import Scorer


@dataclass(frozen=True)
class Sample:
    """One example's outcome. A score is (numerator, denominator): over samples, sums are divided by sums.

    So an accuracy's samples are (0 or 1, 1), and bits per byte weigh each sample by its bytes. `record` is what a
    person would want to look at, as plain values.
    """

    scores: Mapping[str, tuple[float, float]]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class TaskResult:
    """A task's samples, and what a model that knows nothing would score."""

    task: str
    samples: tuple[Sample, ...]
    chance: Mapping[str, float]

    def intervals(self) -> dict[str, Interval]:
        """Each score over all samples, with its 95 % bootstrap interval."""
        return {
            name: ratio_interval(*zip(*(sample.scores[name] for sample in self.samples), strict=True))
            for name in self.samples[0].scores
        }

    def table(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        scores = {
            name: {"value": i.value, "low": i.low, "high": i.high, "chance": self.chance.get(name)}
            for name, i in self.intervals().items()
        }
        return {"task": self.task, "samples": len(self.samples), "scores": scores}


class EvalTask(Protocol):
    """Something to be measured, with examples of its own."""

    @property
    def name(self) -> str:
        """What the results are called."""
        ...

    @property
    def size(self) -> int:
        """How many texts `run` scores, for progress."""
        ...

    def run(self, scorer: Scorer, progress: Callable[[int], None] | None = None) -> TaskResult:
        """Score every example; `progress` is told how many more texts are scored."""
        ...
