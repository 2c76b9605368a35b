"""The Holmes exhibit: its cut, its calibration, and claims that its quick run decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.exhibits import holmes as exhibit
from grainline.exhibits.frame import Scale, verdict


def test_the_repository_s_example() -> None:
    """26 + 22 of 48 layers; and no layer is lost among three."""
    assert exhibit.holmes_cut(48, (197, 160)) == (26, 22)
    assert sum(exhibit.holmes_cut(31, (3.0, 1.0, 2.0))) == 31


@pytest.mark.parametrize("nodes", [4, 8])
def test_calibration_gives_the_three_rows(nodes: int) -> None:
    """Each homogeneous row comes out as published."""
    site = exhibit.calibrated(nodes)
    layers = exhibit.even_layers(exhibit.SMALL)
    found = [site.rate(exhibit.SMALL, layers, (rate, rate)) for rate in site.networks]
    assert found == pytest.approx(exhibit.ROWS[nodes], rel=1e-6)


@pytest.mark.parametrize("claim", [exhibit.GROUPS, exhibit.CUT], ids=lambda claim: claim.name)
def test_properties_hold(claim: exhibit.Claim, tmp_path: Path) -> None:
    """Groups and cuts."""
    found = exhibit.MEASURES[claim](Scale.of(claim, True, tmp_path))
    assert verdict(claim, found, True) == "holds"


def test_groups_by_nic_are_ahead_of_mixed_ones() -> None:
    """Order alone."""
    for nodes in exhibit.ROWS:
        found = exhibit.hybrid(exhibit.calibrated(nodes), exhibit.SMALL)
        assert found["naive"] < found["nic-aware"] <= found["overlapped"]
