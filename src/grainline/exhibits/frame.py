"""What an exhibit is: a claim declared before anything runs, a measurement, and a verdict computed from the two.

An exhibit is one file here, listed in `exhibits.EXHIBITS`. It declares each published claim as a `Claim`, with what is
expected and by what margin it may be missed, and has a table ``MEASURES`` from each claim to the function that
measures it: ``def measure_x(scale: Scale) -> Measurement``. Nothing else decides the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

Verdict = Literal["holds", "short", "inconclusive", "not-run"]
How = Literal["real", "one-gpu", "simulated"]
T = TypeVar("T")


@dataclass(frozen=True)
class Claim:
    """What is claimed, and what will count as holding. All of it is fixed in the exhibit's code before it runs."""

    name: str  # EXHIBIT or EXHIBIT.PART
    text: str  # what is claimed, with the source's figure and setting
    quantity: str  # what is measured here, with its unit
    expected: float  # of the quantity
    margin: float  # by how much the quantity may miss what is expected and still hold; in its unit, not negative
    better: Literal["lower", "higher"]
    baseline: str  # what it is held against, in the same run
    seeds: tuple[int, ...]
    how: How
    quick_seeds: tuple[int, ...] = (0,)
    quick_decides: bool = False  # the quick run measures the same thing with data enough, as an exact simulation does

    def __post_init__(self) -> None:
        if not self.margin >= 0 or not math.isfinite(self.expected):
            raise ValueError(f"{self.name}: the margin must not be negative, and the expected value must be a number")

    @property
    def bound(self) -> float:
        """The worst value that holds."""
        return self.expected + (self.margin if self.better == "lower" else -self.margin)


@dataclass(frozen=True)
class Scale:
    """How much to do: the whole thing, or enough in a minute on two cores to prove that it runs."""

    quick: bool
    seeds: tuple[int, ...]
    folder: Path  # to work in; shared by all claims of one command, and gone after it
    tell: Callable[[str], None]  # progress, a line at a time

    @classmethod
    def of(cls, claim: Claim, quick: bool, folder: Path, tell: Callable[[str], None] = lambda line: None) -> Scale:
        """The scale of a claim's run."""
        return cls(quick, claim.quick_seeds if quick else claim.seeds, folder, tell)

    def pick(self, full: T, quick: T) -> T:
        """One value for the full run, one for the quick run of the same code."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Measurement:
    """What came out. `error_bar` are its ends, around `measured`; `details` is kept with full results."""

    measured: float
    error_bar: tuple[float, float]
    figure: str | None = None  # SVG
    details: Mapping[str, Any] = field(default_factory=dict)  # plain values behind the figure

    def __post_init__(self) -> None:
        low, high = self.error_bar
        if not -math.inf < low <= self.measured <= high < math.inf:
            raise ValueError(f"measured {self.measured} with error bar {self.error_bar}: must be finite, and inside it")


class NotRun(Exception):
    """Raised by a measure function when this machine lacks what it needs; the message says what."""


@dataclass(frozen=True)
class Result:
    """One row of evidence: exactly what `grainline exhibit --json` prints."""

    name: str
    claim: str
    verdict: Verdict
    measured: float | None
    expected: float
    margin: float
    baseline: str
    seeds: tuple[int, ...]
    how: How
    error_bar: tuple[float, float] | None
    quick: bool
    command: str
    figure: str | None  # SVG, or the name of the file that holds it

    def table(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def verdict(claim: Claim, measurement: Measurement, quick: bool) -> Verdict:
    """`holds` if the whole error bar is within the claim's bound, `short` if all of it is beyond, else `inconclusive`.

    A quick run is `inconclusive` unless its claim declares that so little data decides.
    """
    if quick and not claim.quick_decides:
        return "inconclusive"
    low, high = measurement.error_bar
    if claim.better == "lower":
        return "holds" if high <= claim.bound else "short" if low > claim.bound else "inconclusive"
    return "holds" if low >= claim.bound else "short" if high < claim.bound else "inconclusive"


def judge(claim: Claim, measurement: Measurement | None, quick: bool) -> Result:
    """The result of a claim; without a measurement it was not run."""
    return Result(
        name=claim.name,
        claim=f"{claim.text} Measured: {claim.quantity} ({claim.better} is better).",
        verdict="not-run" if measurement is None else verdict(claim, measurement, quick),
        measured=None if measurement is None else measurement.measured,
        expected=claim.expected,
        margin=claim.margin,
        baseline=claim.baseline,
        seeds=claim.quick_seeds if quick else claim.seeds,
        how=claim.how,
        error_bar=None if measurement is None else measurement.error_bar,
        quick=quick,
        command=f"grainline exhibit {claim.name}{' --quick' if quick else ''}",
        figure=None if measurement is None else measurement.figure,
    )
