"""A filter pipeline that runs: German passages found among eight languages and code, by three stages that are profiled.

A length rule, a rule on letters, and a model of letter pairs, dearer and better informed one after another. Each is
profiled by itself on half of the passages, the planner says what all three do to the other half, and then they do it.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grainline.data import builtin
from grainline.documents import write_atomically
from grainline.documents.filters import Filters
from grainline.plan.filters.flow import Contingency, Flow, flow_of
from grainline.plan.filters.scores import Rates
from grainline.plan.filters.tables import PROFILE

Score = Callable[[str], float]
RELEVANT = "de"
REDUCTION = {"length": 1.25, "letters": 2.0, "pairs": 2.0}
CHARACTERS = 200  # of a passage, at least


@dataclass(frozen=True)
class Passage:
    """A message: its text, and whether it is what is looked for."""

    text: str
    relevant: bool

    @property
    def bytes(self) -> int:
        """Of UTF-8."""
        return len(self.text.encode())


def passages(count: int) -> list[Passage]:
    """From the built-in corpus, in its order: paragraphs put together until they are long enough."""
    found: list[Passage] = []
    for text, _, part in builtin.texts():
        for passage in _cut(text):
            found.append(Passage(passage, part == RELEVANT))
            if len(found) == count:
                return found
    return found


def _cut(text: str) -> Iterator[str]:
    held = ""
    for paragraph in text.split("\n\n"):
        held += paragraph
        if len(held) >= CHARACTERS:
            yield held
            held = ""


def pairs_model(known: Sequence[Passage]) -> Score:
    """Mean log-likelihood ratio of letter pairs, relevant against the rest, each counted with one to begin with."""
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for passage in known:
        counts[passage.relevant].update(map("".join, zip(passage.text, passage.text[1:], strict=False)))
    vocabulary = counts[True].keys() | counts[False].keys()
    totals = {kind: sum(of.values()) + len(vocabulary) for kind, of in counts.items()}
    ratio = {
        pair: math.log((counts[True][pair] + 1) / totals[True]) - math.log((counts[False][pair] + 1) / totals[False])
        for pair in vocabulary
    }

    def score(text: str) -> float:
        return sum(ratio.get(text[i : i + 2], 0.0) for i in range(len(text) - 1)) / len(text)

    return score


def letters(text: str) -> float:
    """Share of letters that German has many of."""
    return sum(text.count(letter) for letter in "enäöüß") / len(text)


def stages(known: Sequence[Passage]) -> dict[str, Score]:
    """The cascade, cheapest first."""
    return {"length": lambda text: float(len(text)), "letters": letters, "pairs": pairs_model(known)}


def profile(score: Score, some: Sequence[Passage], path: Path) -> None:
    """A stage on its own over passages: bytes, seconds, score and truth of each, as docs/filters.md has it."""
    lines = [",".join(PROFILE)]
    for passage in some:
        started = time.perf_counter()
        value = score(passage.text)
        seconds = time.perf_counter() - started
        lines.append(f"{passage.bytes},{seconds:.9f},{value:.9g},{int(passage.relevant)}")
    write_atomically(path, "\n".join(lines) + "\n")


def document(names: Sequence[str], some: Sequence[Passage]) -> Filters:
    """The cascade as a filter pipeline over profiles in NAME.csv: one message a second, so that rates are shares."""
    after = [*names[1:], "kept"]
    tables = {
        "name": "German passages",
        "relevant_rate_hz": sum(passage.relevant for passage in some) / len(some),
        "sources": {"text": {"bytes": sum(one.bytes for one in some) / len(some), "rate_hz": 1.0, "to": names[0]}},
        "stages": {
            name: {
                "to": to,
                "reduction": REDUCTION[name],
                "classifier": {"kind": "empirical", "scores": f"{name}.csv", "ties": "random"},
                "work": {"profile": f"{name}.csv"},
                "seconds_per_unit": 1.0,
            }
            for name, to in zip(names, after, strict=True)
        }
        | {"kept": {}},
    }
    return Filters.parse(tables)


@dataclass(frozen=True)
class Ran:
    """What the cascade did: messages by decision and truth, CPU-seconds, and how stages' scores go together."""

    contingency: Contingency
    seconds: float
    messages: int
    correlation: float  # the largest within one kind, between two stages

    @property
    def seconds_per_relevant(self) -> float:
        """CPU-seconds for each relevant message that was found."""
        return self.seconds / self.contingency.passed.relevant


def run(scores: dict[str, Score], flow: Flow, some: Sequence[Passage]) -> Ran:
    """The cascade over `some`, with the thresholds that the planner found."""
    rejected, passed = np.zeros(2), np.zeros(2)
    seconds = 0.0
    for passage in some:
        started = time.perf_counter()
        kept = True
        for name, score in scores.items():
            threshold = flow.steps[name].cut.threshold
            assert threshold is not None
            if score(passage.text) <= threshold:
                kept = False
                break
        seconds += time.perf_counter() - started
        (passed if kept else rejected)[int(passage.relevant)] += 1
    truth = np.array([passage.relevant for passage in some])
    values = np.array([[score(passage.text) for passage in some] for score in scores.values()])
    within = [np.corrcoef(values[:, truth == kind])[np.triu_indices(len(values), 1)] for kind in (False, True)]
    largest = float(max(np.abs(within).max(axis=1)))
    return Ran(Contingency(Rates(*rejected), Rates(*passed)), seconds, len(some), largest)


def predict_and_run(count: int, folder: Path) -> tuple[Flow, Ran]:
    """A third of the passages teaches the pairs, a third is profiled, and on the last one the prediction is tried."""
    every = passages(count)
    known, profiled, unseen = (every[i::3] for i in range(3))
    scores = stages(known)
    for name, score in scores.items():
        profile(score, profiled, folder / f"{name}.csv")
    flow = flow_of(document(tuple(scores), profiled), folder, "German passages")
    return flow, run(scores, flow, unseen)
