"""The learning rate's course, by its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grainline.documents.recipe import LearningRate
from grainline.train.learning_rate import decay_steps, factor, merge_steps


def _course(steps: int, **options: object) -> list[float]:
    recipe = LearningRate(peak=1.0, **options)  # type: ignore[arg-type]
    return [factor(recipe, step, steps) for step in range(1, steps + 1)]


def test_wsd_warms_up_stays_and_decays_linearly() -> None:
    assert _course(10, schedule="wsd", warmup_steps=2, decay_fraction=0.4) == pytest.approx(
        [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    )


def test_wsm_and_constant_never_decay() -> None:
    for schedule in ("wsm", "constant"):
        assert _course(6, schedule=schedule, warmup_steps=2) == [0.5, 1, 1, 1, 1, 1]


def test_cosine_is_half_way_in_the_middle() -> None:
    course = _course(9, schedule="cosine", warmup_steps=0, final=0.1)
    assert course[4] == pytest.approx(0.55)
    assert course[0] > course[-1] > 0.1


def test_square_root_decays_fastest_at_first() -> None:
    course = _course(8, schedule="wsd", decay_fraction=1.0, decay_shape="sqrt")
    drops = [a - b for a, b in zip([1.0, *course], course, strict=False)]
    assert drops == sorted(drops, reverse=True)
    assert course[1] == pytest.approx(1 - (2 / 9) ** 0.5)


@given(
    steps=st.integers(2, 60),
    warmup=st.integers(0, 59),
    fraction=st.floats(0.01, 1),
    shape=st.sampled_from(["linear", "sqrt", "cosine"]),
    schedule=st.sampled_from(["wsd", "wsm", "cosine", "constant"]),
    final=st.floats(0, 0.9),
)
def test_every_course_rises_then_falls_and_never_wastes_a_step(
    steps: int, warmup: int, fraction: float, shape: str, schedule: str, final: float
) -> None:
    warmup = min(warmup, steps - 1)
    course = _course(
        steps, schedule=schedule, warmup_steps=warmup, decay_fraction=fraction, decay_shape=shape, final=final
    )
    assert course[:warmup] == sorted(course[:warmup])
    assert course[warmup:] == sorted(course[warmup:], reverse=True)
    assert all(0 < f <= 1 for f in course)


def test_merged_steps_span_the_window_evenly() -> None:
    recipe = LearningRate(peak=1, schedule="wsm", decay_fraction=0.3, merge_checkpoints=4)
    assert merge_steps(recipe, 100) == (70, 80, 90, 100)
    assert merge_steps(recipe, 5) == (3, 4, 5)  # a window of two steps has three checkpoints
    assert merge_steps(LearningRate(peak=1, schedule="wsd"), 100) == ()
    late = LearningRate(peak=1, schedule="wsm", decay_fraction=1.0, warmup_steps=90, merge_checkpoints=2)
    assert decay_steps(late, 100) == 10
    assert merge_steps(late, 100) == (90, 100)


@given(steps=st.integers(1, 60), fraction=st.floats(0.01, 1), count=st.integers(1, 12), warmup=st.integers(0, 59))
def test_only_steps_that_there_are_get_merged(steps: int, fraction: float, count: int, warmup: int) -> None:
    recipe = LearningRate(
        peak=1, schedule="wsm", decay_fraction=fraction, merge_checkpoints=count, warmup_steps=min(warmup, steps - 1)
    )
    merged = merge_steps(recipe, steps)
    assert sorted(set(merged)) == list(merged)
    assert merged[0] >= 1
    assert merged[-1] == steps
    assert len(merged) <= count
