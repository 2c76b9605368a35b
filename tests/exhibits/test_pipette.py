"""The Pipette exhibit: its formulas against played schedules, and links by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.exhibits import pipette as exhibit
from grainline.exhibits.frame import Scale, verdict


def test_the_older_formula_is_gpipe_s(tmp_path: Path) -> None:
    """And no other claim."""
    found = exhibit.MEASURES[exhibit.OLDER](Scale.of(exhibit.OLDER, True, tmp_path))
    assert verdict(exhibit.OLDER, found, True) == "holds"


def test_the_hidden_path_is_within_three_percent_but_for_one_case(tmp_path: Path) -> None:
    """As deep a pipeline as can be filled twice, with the longest delay: 5 %, so the claim as stated falls short."""
    found = exhibit.MEASURES[exhibit.FORMULA](Scale.of(exhibit.FORMULA, True, tmp_path))
    errors = {name: case["hidden path"] for name, case in found.details["errors"].items()}
    assert [name for name, error in errors.items() if abs(error) > 0.0305] == ["p=16, m=32, c=0.3"]
    assert all(case["older"] < case["hidden path"] < 0 for case in found.details["errors"].values())
    assert verdict(exhibit.FORMULA, found, True) == "short"


def test_without_messages_both_formulas_are_exact() -> None:
    """Equal stages."""
    one = exhibit.played("1f1b", 4, 16, (1.0, 2.0), [0.0] * 3)
    assert exhibit.older(4, 16, 3.0, 0.0) == exhibit.hidden_path(4, 16, 3.0, 0.0) == pytest.approx(one)


def test_equal_links_make_orders_equal_and_a_slow_link_costs() -> None:
    """By hand: a message of a deep pipeline at the slow link's rate."""
    layout = next(found for found in exhibit.layouts() if found.strategy.pipeline == exhibit.SERVERS)
    own, turned = tuple(range(16)), tuple(reversed(range(16)))
    level = [[exhibit.NOMINAL] * 16 for _ in range(16)]
    equal = tuple(map(tuple, level))
    assert layout.seconds(own, equal, hidden=True) == layout.seconds(turned, equal, hidden=True)
    level[3][4] = exhibit.NOMINAL / 4
    slow, before = layout.hops(own, tuple(map(tuple, level))), layout.hops(own, equal)
    assert [a / b for a, b in zip(slow, before, strict=True)] == pytest.approx(
        [4.0 if s == 3 else 1.0 for s in range(15)]
    )
