"""The GPipe exhibit: its simulations against closed forms, and its verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.exhibits import gpipe, gpipe_race
from grainline.exhibits.frame import Scale, judge


@pytest.mark.parametrize(("devices", "microbatches"), [(2, 1), (4, 4), (8, 32)])
def test_a_step_takes_what_the_lists_say(devices: int, microbatches: int) -> None:
    """F fills the pipeline, then R and B drain it; R waits for no gradient, so only B's delay adds up over devices."""
    k, m = devices, microbatches
    units = (m + k - 1) + 3 * m + 2 * (k - 1)
    assert gpipe.step(k, m).makespan == pytest.approx(units / (k * m))
    units = 3 * (m + k - 1)
    assert gpipe.step(k, m, recompute=False).makespan == pytest.approx(units / (k * m))


def test_memory_without_recomputation_is_all_of_the_cell() -> None:
    assert gpipe.peak(4, 8, recompute=False) == pytest.approx(1 + gpipe.LAYERS / 4)


def test_verdicts(tmp_path: Path) -> None:
    results = {}
    simulated = {claim: measure for claim, measure in gpipe.MEASURES.items() if claim.how == "simulated"}
    for claim, measure in simulated.items():
        told: list[str] = []
        found = measure(Scale.of(claim, True, tmp_path, told.append))
        results[claim.name] = judge(claim, found, quick=True)
        assert len(told) == (9 if claim is gpipe.TABLE else 0)
    assert results["gpipe.speed"].verdict == "holds"
    assert results["gpipe.memory"].verdict == "holds"
    assert results["gpipe.table"].verdict == "short"  # the paper's M = 4 is beyond any pipeline of equal cells
    assert [round(value, 2) for value in gpipe.speeds()[1]] == [1.0, 1.08, 1.12]


@pytest.mark.multiprocess
def test_all_ways_come_to_the_same_loss(tmp_path: Path) -> None:
    seconds, losses = gpipe_race.run(gpipe_race.Race(length=8, rounds=1), tmp_path)
    gpipe.check_losses(losses)
    assert list(seconds) == list(gpipe_race.WAYS)
    assert all(len(taken) == 1 and taken[0] > 0 for taken in seconds.values())
    with pytest.raises(RuntimeError, match="disagree on the loss"):
        gpipe.check_losses(losses | {"two, M = 8": losses["two, M = 8"] * 1.001})
