"""The HEP-DAQ exhibit: the trigger's curve is the one that is sampled, and the text filter runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grainline.exhibits import hep_daq as exhibit
from grainline.exhibits.frame import Scale
from grainline.exhibits.hep_daq_text import predict_and_run
from grainline.exhibits.hep_daq_trigger import samples
from grainline.plan.filters.tables import CURVE, read_columns


def test_all_published_rows_within_a_hundredth(tmp_path: Path) -> None:
    claim = exhibit.TABLE
    told: list[str] = []
    found = exhibit.MEASURES[claim](Scale.of(claim, True, tmp_path, told.append))
    assert found.measured < claim.margin
    assert len(told) == len(exhibit.PUBLISHED)
    rows = found.details["rows"]
    best, base = (rows[name]["computed"] for name in ("gpu_hlt + smart_pixels + level1_boost", "baseline"))
    assert best[0] / base[0] - 1 == pytest.approx(-0.604, abs=0.001)
    assert best[2] / base[2] == pytest.approx(4.71, rel=0.005)


@pytest.mark.parametrize("claim", [exhibit.ORACLES, exhibit.TRIGGER, exhibit.EARLY], ids=lambda claim: claim.name)
def test_claims_that_cost_nothing_hold(claim: exhibit.Claim, tmp_path: Path) -> None:
    assert exhibit.MEASURES[claim](Scale.of(claim, True, tmp_path)).measured <= claim.bound


def test_the_stored_curve_is_a_draw_of_the_trigger() -> None:
    score, irrelevant, relevant = read_columns(exhibit.FOLDER / "level1_scores.csv", CURVE)
    for shares, drawn in zip(
        (irrelevant, relevant), samples(exhibit.FOLDER / "level1_turn_on.csv", 20_000, 7), strict=True
    ):
        again = np.searchsorted(np.sort(drawn), score, side="right") / len(drawn)
        assert np.abs(again - shares).max() < 1.95 / len(drawn) ** 0.5  # Kolmogorov, 0.1 %


def test_a_real_cascade_does_about_what_was_planned(tmp_path: Path) -> None:
    flow, ran = predict_and_run(1200, tmp_path)
    assert ran.messages == ran.contingency.passed.total + ran.contingency.rejected.total == 400
    assert ran.contingency.passed.total / 400 == pytest.approx(flow.contingency.passed.total, abs=0.08)
    assert ran.contingency.recall == pytest.approx(flow.contingency.recall, abs=0.2)
    assert ran.contingency.recall > 0.5
    assert 0 < ran.correlation < 1
