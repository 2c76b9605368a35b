"""Windows cover every target once, and never with less than half a window before it."""

from __future__ import annotations

import itertools

import pytest

from grainline.eval.windows import Window, windows


@pytest.mark.parametrize("size", [2, 3, 8, 9])
def test_each_target_once_and_with_enough_before_it(size: int) -> None:
    for length, first in itertools.product(range(1, 40), range(1, 12)):
        spans = list(windows(length, first, size))
        scored = [t for w in spans for t in range(w.first, w.stop + 1)]
        assert scored == list(range(first, length))
        for w in spans:
            assert 0 < w.inputs <= size
            assert w.start < w.first
            for target in range(w.first, w.stop + 1):
                assert target - w.start >= min(target, size // 2)


def test_a_short_sequence_is_one_window() -> None:
    assert list(windows(length=9, first=1, size=8)) == [Window(0, 8, 1)]
    assert list(windows(length=10, first=1, size=8)) == [Window(0, 8, 1), Window(1, 9, 9)]


def test_nothing_to_score() -> None:
    assert list(windows(length=1, first=1, size=8)) == []
    assert list(windows(length=5, first=5, size=8)) == []
