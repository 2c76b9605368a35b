"""The verdict follows from figures and a margin that was declared before them; nothing else."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from grainline.exhibits.frame import Claim, Measurement, Result, Scale, judge, verdict

LOWER = Claim(
    name="toy.ratio",
    text="A is smaller than B.",
    quantity="A / B",
    expected=0.9,
    margin=0.05,
    better="lower",
    baseline="B",
    seeds=(0, 1, 2),
    how="real",
)
HIGHER = replace(LOWER, better="higher", expected=1.2, margin=0.1)


@pytest.mark.parametrize(
    ("claim", "low", "high", "expected"),
    [
        (LOWER, 0.80, 0.94, "holds"),
        (LOWER, 0.80, 0.95, "holds"),  # the bound itself still holds
        (LOWER, 0.80, 0.96, "inconclusive"),
        (LOWER, 0.951, 0.96, "short"),
        (LOWER, 0.95, 0.96, "inconclusive"),
        (HIGHER, 1.11, 1.5, "holds"),
        (HIGHER, 1.09, 1.5, "inconclusive"),
        (HIGHER, 0.9, 1.09, "short"),
    ],
)
def test_the_verdict_is_where_the_whole_error_bar_lies(claim: Claim, low: float, high: float, expected: str) -> None:
    measurement = Measurement((low + high) / 2, (low, high))
    assert verdict(claim, measurement, quick=False) == expected
    assert verdict(claim, measurement, quick=True) == "inconclusive"
    assert verdict(replace(claim, quick_decides=True), measurement, quick=True) == expected


def test_bounds() -> None:
    assert LOWER.bound == pytest.approx(0.95)
    assert HIGHER.bound == pytest.approx(1.1)
    with pytest.raises(ValueError, match="margin must not be negative"):
        replace(LOWER, margin=-0.1)


@pytest.mark.parametrize("bad", [(math.nan, (0, 1)), (2.0, (0, 1)), (0.5, (-math.inf, 1)), (0.5, (0, math.nan))])
def test_a_measurement_lies_inside_a_finite_error_bar(bad: tuple[float, tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Measurement(*bad)


def test_the_result_has_exactly_the_published_fields() -> None:
    names = "name claim verdict measured expected margin baseline seeds how error_bar quick command figure"
    assert [field.name for field in fields(Result)] == names.split()
    result = judge(LOWER, Measurement(0.9, (0.85, 0.94), figure="<svg/>"), quick=False)
    assert result.table() == {
        "name": "toy.ratio",
        "claim": "A is smaller than B. Measured: A / B (lower is better).",
        "verdict": "holds",
        "measured": 0.9,
        "expected": 0.9,
        "margin": 0.05,
        "baseline": "B",
        "seeds": (0, 1, 2),
        "how": "real",
        "error_bar": (0.85, 0.94),
        "quick": False,
        "command": "grainline exhibit toy.ratio",
        "figure": "<svg/>",
    }


def test_without_a_measurement_it_was_not_run() -> None:
    result = judge(LOWER, None, quick=True)
    assert (result.verdict, result.measured, result.error_bar, result.figure) == ("not-run", None, None, None)
    assert result.seeds == (0,)
    assert result.command.endswith(" --quick")


def test_scale_picks_the_amount_and_the_seeds(tmp_path: Path) -> None:
    full, quick = Scale.of(LOWER, False, tmp_path), Scale.of(LOWER, True, tmp_path)
    assert (full.seeds, full.pick(full=100, quick=1)) == ((0, 1, 2), 100)
    assert (quick.seeds, quick.pick(full=100, quick=1)) == ((0,), 1)
