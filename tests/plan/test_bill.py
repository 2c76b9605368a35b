"""What runs cost: expected times against random failures, dollars and energy by hand."""

from __future__ import annotations

import math
import random

import pytest

from grainline.documents import GrainlineError
from grainline.hardware.catalogue import catalogue
from grainline.plan.layouts.bill import IDLE_SHARE, Reliability, bill


def played(r: Reliability, every: float, work: float, draw: random.Random) -> float:
    """Wall-clock seconds of so much work: what was done since the last checkpoint is lost in each failure."""
    clock = done = 0.0
    failure = draw.expovariate(1 / r.failure_seconds)
    while done < work:
        needed = every + r.save_seconds
        if failure > needed:
            clock, failure, done = clock + needed, failure - needed, done + every
            continue
        clock += failure
        while True:  # restarts may fail as well
            failure = draw.expovariate(1 / r.failure_seconds)
            if failure > r.restart_seconds:
                break
            clock += failure
        clock, failure = clock + r.restart_seconds, failure - r.restart_seconds
    return clock


@pytest.mark.parametrize("every", [300.0, 1500.0, 6000.0])
def test_stretch_is_what_random_failures_give(every: float) -> None:
    """Within a percent or two over 40 runs of 400 checkpoints each."""
    r, draw = Reliability(20_000.0, 60.0, 600.0), random.Random(1)
    work = 400 * every
    mean = sum(played(r, every, work, draw) for _ in range(40)) / 40 / work
    assert r.stretch(every) == pytest.approx(mean, rel=0.02)


def test_young_s_distance_is_near_the_best() -> None:
    """Against a scan; it leaves out what restarts cost."""
    r = Reliability(36_000.0, 40.0, 600.0)
    best = min(r.stretch(t) for t in range(200, 6000, 20))
    assert best <= r.stretch() <= best * 1.002


def test_llama_405b_s_rate() -> None:
    """One interruption in three hours on 16,384 devices, as reported."""
    r = Reliability.of(16_384, 2048, 5e12)
    assert 3600 * 3 < r.failure_seconds < 3600 * 3.2


def test_dollars_and_energy_add_up() -> None:
    """Eight A100s for an hour and a bit: price and power of the catalogue."""
    a100 = catalogue().device("A100-80").device
    assert a100.price_per_hour
    assert a100.power_watts
    found = bill([a100] * 8, 1, 3.6, 0.5, 1000, 1e9)
    assert found.dollars == pytest.approx(8 * a100.price_per_hour * found.seconds / 3600)
    share = IDLE_SHARE + (1 - IDLE_SHARE) * 0.5 / found.stretch
    assert found.joules == pytest.approx(8 * a100.power_watts * share * found.seconds)
    assert found.seconds == pytest.approx(3600 * found.stretch)


def test_failures_without_end_are_told() -> None:
    """Where checkpoints take longer than the machine lasts, no end is expected; nonsense is refused."""
    assert Reliability(10.0, 1000.0).stretch() == math.inf
    with pytest.raises(GrainlineError, match="must be more than 0"):
        Reliability.of(8, 1, 1e9, device_hours=0.0)
