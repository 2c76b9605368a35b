"""The measuring harness: what cancels, what is ordered how, what an error bar covers."""

from __future__ import annotations

import numpy as np
import pytest

from grainline.exhibits.harness import alternate, estimate, ratio


class Clock:
    """Time that passes only when a candidate says so; `speed` makes the whole machine slower as it goes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.speed = 1.0
        self.order: list[str] = []

    def spend(self, name: str, seconds: float) -> None:
        self.order.append(name)
        self.now += seconds * self.speed
        self.speed *= 1.1

    def __call__(self) -> float:
        return self.now


def test_candidates_alternate_and_turn_around() -> None:
    clock = Clock()
    seconds = alternate(
        {"a": lambda: clock.spend("a", 2), "b": lambda: clock.spend("b", 1)}, rounds=4, warmup=1, clock=clock
    )
    assert "".join(clock.order) == "ab" + "abba" * 2
    assert [len(times) for times in seconds.values()] == [4, 4]
    # The machine slowed down by a factor of 2.4 meanwhile; the ratio of pairs stays near its true 2.
    assert ratio(seconds["a"], seconds["b"]).value == pytest.approx(2, rel=0.02)


def test_few_samples_have_their_range_as_error_bar() -> None:
    found = estimate([3, 1, 2])
    assert (found.value, found.error_bar, found.samples) == (2, (1, 3), (3, 1, 2))
    assert str(found) == "2 (1 to 3, n = 3)"
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def test_the_error_bar_of_many_covers_the_true_median_and_narrows() -> None:
    rng = np.random.default_rng(0)
    inside, widths = 0, {20: [], 200: []}
    for _ in range(100):
        for n, seen in widths.items():
            found = estimate(rng.normal(5, 1, n), resamples=300)
            assert found.low <= found.value <= found.high
            seen.append(found.high - found.low)
            inside += n == 200 and found.low <= 5 <= found.high
    assert 0.88 <= inside / 100 <= 1
    assert np.mean(widths[200]) < 0.5 * np.mean(widths[20])


def test_ratios_are_of_pairs() -> None:
    assert ratio([2, 20, 200], [1, 10, 100]).error_bar == (2, 2)
    with pytest.raises(ValueError, match="zip"):
        ratio([1, 2], [1])
