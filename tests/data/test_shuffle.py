"""The computed permutation is one, and as random as a drawn one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from grainline.data.shuffle import draw, key_of, permuted


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_every_number_comes_once(size: int, key: int) -> None:
    assert sorted(permuted(np.arange(size), size, key).tolist()) == list(range(size))


def test_any_part_is_the_same_as_in_the_whole() -> None:
    whole = permuted(np.arange(1000), 1000, 5)
    assert np.array_equal(permuted(np.array([7, 999, 0]), 1000, 5), whole[[7, 999, 0]])


@pytest.mark.parametrize("size", [2, 3, 5, 6])
def test_small_permutations_are_all_about_as_likely(size: int) -> None:
    """Chi-squared over places: each number should be found everywhere equally often."""
    drawn = np.stack([permuted(np.arange(size), size, key_of(1, key)) for key in range(3000)])
    for number in range(size):
        counts = np.bincount(drawn[:, number], minlength=size)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_large_permutations_have_no_pattern() -> None:
    size = 100_000
    values = permuted(np.arange(size), size, 1)
    assert abs(stats.pearsonr(np.arange(size), values)[0]) < 0.015
    assert abs(stats.pearsonr(values[:-1], values[1:])[0]) < 0.015
    steps = np.diff(values) % size
    assert stats.kstest(steps / size, "uniform").pvalue > 1e-4
    other = permuted(np.arange(size), size, 2)
    assert (other == values).sum() < 10  # 1 expected


def test_huge_sizes_cost_no_more() -> None:
    values = permuted(np.arange(1000), 10**15, 3)
    assert len(set(values.tolist())) == 1000
    assert values.min() >= 0
    assert 4e14 < values.mean() < 6e14


def test_keys_depend_on_every_number_and_on_their_order() -> None:
    keys = {key_of(a, b) for a in range(50) for b in range(50)}
    assert len(keys) == 2500
    assert stats.chisquare(np.bincount([draw(10, key) for key in keys], minlength=10)).pvalue > 1e-4
