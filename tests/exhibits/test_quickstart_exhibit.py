"""The quickstart's exhibit: one quickstart for each seed, read by all claims; what a quick run takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from grainline.exhibits import quickstart as exhibit
from grainline.exhibits.frame import Scale
from grainline.quickstart import figures, run
from grainline.quickstart.options import Options

SCORES = {"sparse": 1.5, "dense": 2.0, "n-gram": 3.0, "xz": 2.5}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """Quickstarts that end at once with SCORES."""
    found: list[Options] = []

    def quickstart(options: Options, out: Path, *, say: Callable[[str], None], quiet: bool) -> Path:
        found.append(options)
        out.mkdir(parents=True)
        scores = {name: {"total": value + options.seed / 100} for name, value in SCORES.items()}
        (out / "evaluation.json").write_text(json.dumps({"bits_per_byte": scores}))
        return out

    monkeypatch.setattr(run, "quickstart", quickstart)
    monkeypatch.setattr(figures, "overview_svg", lambda folder: "<svg></svg>")
    return found


def test_claims_read_the_same_quickstarts(asked: list[Options], tmp_path: Path) -> None:
    found = {
        claim.name: measure(Scale.of(claim, False, tmp_path)).measured for claim, measure in exhibit.MEASURES.items()
    }
    assert [(options.minutes, options.seed) for options in asked] == [(5.0, seed) for seed in exhibit.SEEDS]
    assert found["quickstart.sparse"] == pytest.approx(1.51 / 2.01)
    assert found["quickstart.classical"] == pytest.approx(1.51 / 2.51)
    assert 0 < found["quickstart.on-time"] < 0.1


def test_a_quick_run_fits_into_a_minute(asked: list[Options], tmp_path: Path) -> None:
    for claim, measure in exhibit.MEASURES.items():
        measure(Scale.of(claim, True, tmp_path))
    (options,) = asked
    assert options.minutes * 60 <= 35
