"""WSM: the maps between decay curves and merge weights, and the merge against recorded updates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grainline.documents import GrainlineError
from grainline.documents.recipe import LearningRate
from grainline.train.merge import decay_merge_weights, merge, merge_weights


def update_weights(merge: Sequence[float]) -> list[float]:
    """w_1 … w_k, what each update is worth, from c_0 … c_k, what each checkpoint weighs: the other way round."""
    return list(accumulate(reversed(merge[1:])))[::-1]


class InMemory:
    def __init__(self, where: str, tensors: dict[str, torch.Tensor]) -> None:
        self.where, self.tensors = where, tensors

    def names(self) -> Iterable[str]:
        return self.tensors.keys()

    def read(self, name: str) -> torch.Tensor:
        return self.tensors[name]


@given(st.lists(st.fractions(0, 1), min_size=1, max_size=20))
def test_the_maps_are_inverse_exactly(values: list[Fraction]) -> None:
    curve = sorted(values, reverse=True)
    c = merge_weights(curve)  # type: ignore[arg-type]
    assert update_weights(c) == curve
    assert sum(c) == 1
    assert min(c) >= 0
    assert merge_weights(update_weights(c)) == c


def test_uniform_weights_are_a_linear_decay() -> None:
    assert update_weights([Fraction(1, 5)] * 5) == [Fraction(i, 5) for i in (4, 3, 2, 1)]  # type: ignore[list-item]
    assert decay_merge_weights(LearningRate(peak=1), 5) == pytest.approx([0.2] * 5)
    assert decay_merge_weights(LearningRate(peak=1), 1) == [1.0]


def test_merging_equals_decaying_the_recorded_updates() -> None:
    """θ_n + Σ wᵢ gᵢ in float64, for each shape."""
    generator = torch.Generator().manual_seed(0)
    updates = [torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(9)]
    thetas = [torch.randn(7, 5, generator=generator, dtype=torch.float64)]
    for g in updates:
        thetas.append(thetas[-1] + g)
    for shape in ("linear", "sqrt", "cosine"):
        c = decay_merge_weights(LearningRate(peak=1, decay_shape=shape), len(thetas))
        w = update_weights(c)
        expected = thetas[0] + sum(wi * g for wi, g in zip(w, updates, strict=True))
        [(name, merged)] = merge([InMemory(str(i), {"x": t}) for i, t in enumerate(thetas)], c)
        assert name == "x"
        torch.testing.assert_close(merged, expected, atol=1e-12, rtol=0)


def test_sums_are_in_float64_and_dtype_is_kept() -> None:
    parts = [torch.tensor([1.0, 2.0**-30]), torch.tensor([-1.0, 2.0**-30]), torch.tensor([0.0, 2.0**-30])]
    third = [1 / 3] * 3
    [(_, merged)] = merge([InMemory(str(i), {"x": p}) for i, p in enumerate(parts)], third)
    assert merged.dtype == torch.float32
    assert merged[0] == 0
    assert merged[1].item() == pytest.approx(2.0**-30, rel=1e-6)
    counts = torch.tensor([3, 4])
    [(_, same)] = merge([InMemory("a", {"n": counts}), InMemory("b", {"n": counts})], [0.5, 0.5])
    assert torch.equal(same, counts)


@pytest.mark.parametrize("curve", [[0.5, 0.6], [1.1, 0.5], [0.5, -0.1], [math.nan]])
def test_a_curve_that_no_average_can_follow_is_refused(curve: list[float]) -> None:
    with pytest.raises(GrainlineError, match="never rises"):
        merge_weights(curve)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"x": torch.zeros(2), "y": torch.zeros(1)}, "only one of them has y"),
        ({"x": torch.zeros(3)}, r"x is torch.float32 \[3\]"),
        ({"x": torch.zeros(2, dtype=torch.bfloat16)}, "bfloat16"),
        ({"x": torch.tensor([1.0, math.nan])}, "b: x holds NaN"),
    ],
)
def test_checkpoints_that_do_not_match_are_named(other: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(GrainlineError, match=message):
        list(merge([InMemory("a", {"x": torch.zeros(2)}), InMemory("b", other)], [0.5, 0.5]))


def test_weights_must_fit_the_checkpoints() -> None:
    source = InMemory("a", {"x": torch.zeros(1)})
    with pytest.raises(GrainlineError, match="one for each"):
        list(merge([source], [0.5, 0.5]))
    with pytest.raises(GrainlineError, match="sum to 1"):
        list(merge([source, source], [0.5, 0.6]))
