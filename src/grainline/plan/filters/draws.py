"""Labelled messages drawn at random and taken through every threshold one by one: what the flow is held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from grainline.documents.filters import Filters
from grainline.plan.filters.flow import Contingency, Flow
from grainline.plan.filters.scores import Curve, Gaussian, Point, Rates, Scores, scores_of
from grainline.plan.filters.tables import Column

CHUNK = 1_000_000


def drawn(filters: Filters, folder: Path, flow: Flow, messages: int, seed: int = 0) -> Contingency:
    """Counts of so many messages of the one source's rate, split evenly over runs of a chain of stages.

    Every stage scores each message afresh and compares the score with the threshold in `flow`. Counts, not rates.
    Messages are whole: sources whose parts meet count once.
    """
    generator = np.random.default_rng(seed)
    ways = [(scores_of(filters.stages[name].classifier, folder), flow.steps[name]) for name in filters.order()]
    share = flow.relevant_hz / (flow.contingency.passed.total + flow.contingency.rejected.total)
    rejected, passed = np.zeros(2), np.zeros(2)
    for first in range(0, messages, CHUNK):
        count = min(CHUNK, messages - first)
        relevant = generator.random(count) < share
        alive = np.ones(count, dtype=bool)
        for scores, step in ways:
            keep = _keeps(scores, relevant, step.cut.threshold, generator)
            alive &= keep
        passed += np.bincount(relevant[alive], minlength=2)
        rejected += np.bincount(relevant[~alive], minlength=2)
    return Contingency(Rates(*rejected.tolist()), Rates(*passed.tolist()))


def _keeps(
    scores: Scores,
    relevant: np.ndarray[tuple[int], np.dtype[np.bool_]],
    threshold: float | None,
    g: np.random.Generator,
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    n = len(relevant)
    match scores:
        case Gaussian():
            score = g.standard_normal(n)
            score = np.where(relevant, scores.skill + scores.sigma * score, score)
        case Curve():
            u = g.random(n)
            score = np.where(
                relevant,
                _inverse(scores.relevant_below, scores.relevant_score, u),
                _inverse(scores.irrelevant_below, scores.irrelevant_score, u),
            )
        case Point():
            kept: np.ndarray[tuple[int], np.dtype[np.bool_]] = g.random(n) < np.where(
                relevant, scores.relevant_pass, scores.irrelevant_pass
            )
            return kept
        case _:
            return np.ones(n, dtype=bool)
    assert threshold is not None
    above: np.ndarray[tuple[int], np.dtype[np.bool_]] = score > threshold
    return above


def _inverse(below: Column, score: Column, u: Column) -> Column:
    """The score below which the share `u` lies; flat runs have no mass, so their first score will do."""
    drawn: Column = np.interp(u, below, score)
    return drawn
