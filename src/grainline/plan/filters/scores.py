"""Distributions of a stage's score among irrelevant and relevant messages, and the threshold that lets 1/R pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from grainline.documents import GrainlineError
from grainline.documents.filters import Classifier
from grainline.plan.filters.tables import CURVE, SAMPLES, Column, read_columns

WIDE = 40.0  # deviations beyond which a normal distribution has nothing left
TIED = 0.01  # share of messages with one score that a threshold may cut through without being told


class Rates(NamedTuple):
    """Messages per second by what they truly are."""

    irrelevant: float
    relevant: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.irrelevant + self.relevant


class Cut(NamedTuple):
    """A decision: the threshold (None where there is none), and the shares of either kind that it rejects."""

    threshold: float | None
    irrelevant: float
    relevant: float


class Scores(Protocol):
    """Where a threshold comes to lie."""

    def cut(self, rates: Rates, reject: float) -> Cut:
        """Rejects the share `reject` of all messages; GrainlineError where no threshold does."""


@dataclass(frozen=True)
class AllPass:
    """No decision."""

    def cut(self, rates: Rates, reject: float) -> Cut:
        """Nothing is rejected."""
        return Cut(None, 0.0, 0.0)


@dataclass(frozen=True)
class Point:
    """One working point, which the reduction doesn't move."""

    irrelevant_pass: float
    relevant_pass: float

    def cut(self, rates: Rates, reject: float) -> Cut:
        """The same for every `reject`."""
        return Cut(None, 1 - self.irrelevant_pass, 1 - self.relevant_pass)


@dataclass(frozen=True)
class Gaussian:
    """Irrelevant scores N(0, 1), relevant ones N(skill, sigma)."""

    skill: float
    sigma: float

    def cut(self, rates: Rates, reject: float) -> Cut:
        """By root-finding over all scores that either has. With nothing to reject the threshold is at −∞."""
        if reject <= 0:
            return Cut(-math.inf, 0.0, 0.0)

        def excess(threshold: float) -> float:
            found = self._below(threshold)
            return (rates.irrelevant * found[0] + rates.relevant * found[1]) / rates.total - reject

        low, high = min(-WIDE, self.skill - WIDE * self.sigma), max(WIDE, self.skill + WIDE * self.sigma)
        threshold = float(brentq(excess, low, high, xtol=1e-13, rtol=1e-14))
        return Cut(threshold, *self._below(threshold))

    def _below(self, threshold: float) -> tuple[float, float]:
        return float(norm.cdf(threshold)), float(norm.cdf(threshold, loc=self.skill, scale=self.sigma))


@dataclass(frozen=True)
class Curve:
    """Measured shares below a score, straight between the rows; a share that jumps at one score is a tie."""

    irrelevant_score: Column
    irrelevant_below: Column
    relevant_score: Column
    relevant_below: Column
    random_ties: bool = False

    def cut(self, rates: Rates, reject: float) -> Cut:
        """The threshold at which the mixture of both kinds reaches `reject`."""
        if reject <= 0:
            return Cut(-math.inf, 0.0, 0.0)
        knots = np.unique(np.concatenate([self.irrelevant_score, self.relevant_score]))
        weight = np.array([rates.irrelevant, rates.relevant]) / rates.total
        before = weight @ np.array([self._at(knots, side="left"), self._at(knots, side="left", relevant=True)])
        after = weight @ np.array([self._at(knots, side="right"), self._at(knots, side="right", relevant=True)])
        i = min(int(np.searchsorted(after, reject)), len(knots) - 1)
        if before[i] < reject:  # the jump at this knot reaches it
            jump = float(after[i] - before[i])
            if jump > TIED and not self.random_ties:
                raise GrainlineError(
                    f"{reject:.4g} of the messages should be rejected, but {jump:.4g} of them have the score "
                    f"{knots[i]:g}: thresholds reject {before[i]:.4g} or {after[i]:.4g}. Set the reduction to "
                    f"{_reduction(before[i])} or {_reduction(after[i])}, or classifier.ties = 'random'"
                )
            share = (reject - float(before[i])) / jump
            low, high = (
                [float(self._at(knots[i : i + 1], side=s, relevant=kind)[0]) for kind in (False, True)]
                for s in ("left", "right")
            )
            return Cut(float(knots[i]), *(a + share * (b - a) for a, b in zip(low, high, strict=True)))
        # Both are straight between two knots, and so is their mixture.
        share = (reject - float(after[i - 1])) / (float(before[i]) - float(after[i - 1]))
        threshold = knots[i - 1] + share * (knots[i] - knots[i - 1])
        ends = [
            (
                float(self._at(knots[i - 1 : i], side="right", relevant=k)[0]),
                float(self._at(knots[i : i + 1], side="left", relevant=k)[0]),
            )
            for k in (False, True)
        ]
        return Cut(float(threshold), *(a + share * (b - a) for a, b in ends))

    def _at(self, score: Column, *, side: str, relevant: bool = False) -> Column:
        """Shares below these scores; of a score that several rows have, before or after its jump."""
        scores = self.relevant_score if relevant else self.irrelevant_score
        below = self.relevant_below if relevant else self.irrelevant_below
        return shares_below(score, scores, below, side)


def shares_below(at: Column, scores: Column, below: Column, side: str) -> Column:
    """Shares below the scores `at` by rows that rise, straight between them; ``left`` of a jump or ``right`` of it."""
    if side == "left":  # the first of rows with equal scores
        index = np.searchsorted(scores, at, side="left")
        exact = (index < len(scores)) & (scores[np.minimum(index, len(scores) - 1)] == at)
    else:
        index = np.searchsorted(scores, at, side="right") - 1
        exact = (index >= 0) & (scores[np.maximum(index, 0)] == at)
    found: Column = np.interp(at, scores, below, left=0.0, right=1.0)
    return np.where(exact, below[np.clip(index, 0, len(scores) - 1)], found)


def scores_of(classifier: Classifier, folder: Path) -> Scores:
    """The distributions that a document's classifier means; `folder` holds the files that it names."""
    match classifier.kind:
        case "gaussian":
            assert classifier.skill is not None
            assert classifier.sigma is not None
            return Gaussian(classifier.skill, classifier.sigma)
        case "point":
            assert classifier.irrelevant_pass is not None
            assert classifier.relevant_pass is not None
            return Point(classifier.irrelevant_pass, classifier.relevant_pass)
        case "empirical":
            assert classifier.scores is not None
            return _measured(folder / classifier.scores, classifier.boost, classifier.ties == "random")
        case _:
            return AllPass()


def _measured(path: Path, boost: float, random_ties: bool) -> Curve:
    columns = read_columns(path, CURVE, SAMPLES)
    if len(columns) == 3:
        score, irrelevant, relevant = columns
        for name, shares in zip(CURVE[1:], (irrelevant, relevant), strict=True):
            if (np.diff(shares) < 0).any() or shares[0] < 0 or shares[-1] > 1:
                raise GrainlineError(f"{path}: {name}: shares must rise from 0 to 1, row by row.")
        if (np.diff(score) < 0).any():
            raise GrainlineError(f"{path}: score: rows must be in the order of their score.")
        score, irrelevant, relevant = np.pad(score, 1, "edge"), *(_whole(one) for one in (irrelevant, relevant))
        return Curve(score, irrelevant, score + boost, relevant, random_ties)
    score, truth = columns
    if not set(np.unique(truth)) == {0.0, 1.0}:
        raise GrainlineError(f"{path}: relevant: must be 0 or 1, with rows of both.")
    irrelevant_score, irrelevant = _steps(score[truth == 0])
    relevant_score, relevant = _steps(score[truth == 1] + boost)
    return Curve(irrelevant_score, irrelevant, relevant_score, relevant, random_ties)


def _whole(shares: Column) -> Column:
    """From 0 to 1: what lies below the first row, or above the last, lies at it."""
    return np.concatenate([[0.0], shares, [1.0]])


def _steps(sample: Column) -> tuple[Column, Column]:
    """A sample's shares below each score, before and after it, as rows. Steps stay steps."""
    score, count = np.unique(sample, return_counts=True)
    after = np.cumsum(count) / len(sample)
    before = np.concatenate([[0.0], after[:-1]])
    return np.repeat(score, 2), np.stack([before, after], axis=1).ravel()


def _reduction(rejected: float) -> str:
    return f"{1 / (1 - rejected):.4g}" if rejected < 1 else "more"
