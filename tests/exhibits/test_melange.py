"""The Mélange exhibit: its oracle against a hand count, and a quick run of what decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grainline.exhibits import melange
from grainline.exhibits.frame import Claim, Scale, judge


def quick(claim: Claim, folder: Path, told: list[str] | None = None) -> float:
    scale = Scale.of(claim, True, folder, (told if told is not None else []).append)
    found = melange.MEASURES[claim](scale)
    judge(claim, found, quick=True)
    return found.measured


def test_exhaustion_by_hand() -> None:
    # One slice each: all on A10G loads it with 4/5 + 2/1 + 6/10 + 4/5 = 4.2, so five of them.
    assert melange.exhausted(replace(melange.TOY, slices=1)) == pytest.approx(5.05)
    assert melange.exhausted(replace(melange.TOY.of_type(1), slices=1)) == pytest.approx(7.34)


@pytest.mark.parametrize("claim", [melange.REPOSITORY, melange.OPTIMAL])
def test_exact_claims_hold_in_a_quick_run(claim: Claim, tmp_path: Path) -> None:
    scale = Scale.of(claim, True, tmp_path)
    assert judge(claim, melange.MEASURES[claim](scale), quick=True).verdict == "holds"


def test_savings_and_order_over_fewer_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(melange, "RATES", (1.0, 4.0))
    monkeypatch.setattr(melange, "PAPER", {key: melange.PAPER[key] for key in (("chat", 0.12), ("mixed", 0.04))})
    monkeypatch.setattr(melange, "CASES", (("chat", 0.12, 1.0),))
    told: list[str] = []
    assert 0 <= quick(melange.SAVINGS, tmp_path, told) <= 2
    assert any("1 A10G = 1.01 $/h" in line for line in told)
    assert quick(melange.NEVER_DEARER, tmp_path) >= -1e-6


def test_attainment_of_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(melange, "CASES", (("chat", 0.12, 1.0),))
    assert quick(melange.ATTAINMENT, tmp_path) >= 0.99
