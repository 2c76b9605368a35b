"""The FengHuang exhibit: derived figures come out, and half of the GPUs falls short at a 9.1 µs all-reduce."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.exhibits import fenghuang as exhibit
from grainline.exhibits.frame import Scale, verdict


@pytest.mark.parametrize("claim", list(exhibit.MEASURES), ids=lambda claim: claim.name)
def test_verdicts(claim: exhibit.Claim, tmp_path: Path) -> None:
    found = exhibit.MEASURES[claim](Scale.of(claim, True, tmp_path))
    assert verdict(claim, found, True) == ("short" if claim is exhibit.HALF else "holds")
