"""The exhibit on vocabulary parallelism: its simulation against closed forms, its verdicts, and a tiny race."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.exhibits import vocabulary_parallelism as exhibit
from grainline.exhibits.frame import Scale, judge
from grainline.exhibits.vocabulary_race import METHODS, Finish, Race, run
from grainline.exhibits.vocabulary_rows import (
    GIB,
    HIDDEN,
    MICROBATCHES,
    RANKS,
    Setting,
    of,
    rows,
)


@pytest.mark.parametrize(("vocabulary", "slowest"), [(32_768, 4.8), (131_072, 7.2), (262_144, 10.4)])
def test_the_equal_cut_goes_at_the_pace_of_its_last_stage(vocabulary: int, slowest: float) -> None:
    """1F1B of unequal stages: M of the slowest, and the others once; messages take next to no time."""
    setting = Setting(2048, vocabulary, "plain")
    block = 3 * setting.block_flops / 195e12
    assert 4 + setting.output_flops / setting.block_flops == pytest.approx(slowest)
    expected = block * ((MICROBATCHES - 1) * slowest + (RANKS - 1) * 4 + slowest)
    assert setting.step(setting.schedule()).makespan == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("method", ["vocab1", "vocab2", "interlaced"])
def test_spread_over_all_ranks_the_slowest_stage_is_the_mean(method: str) -> None:
    setting = Setting(2048, 262_144, method)
    block = 3 * setting.block_flops / 195e12
    least = block * (MICROBATCHES * 4.8 + (RANKS - 1) * 4)
    assert least < setting.step(setting.schedule()).makespan < 1.02 * least


def test_micro_batches_in_flight_and_what_they_weigh() -> None:
    held = {m: of("4k", "32k", m).in_flight for m in exhibit.METHODS}
    assert held == {"plain": 8, "redistribution": 8, "vocab1": 10, "vocab2": 9, "interlaced": 12}
    one = 4 * 34 * 4096 * HIDDEN / GIB
    one_more = (of("4k", "32k", "vocab1").peak_bytes - of("4k", "32k", "vocab2").peak_bytes) / GIB
    assert one_more == pytest.approx(one, rel=0.02)
    assert len(rows()) == 40


def test_verdicts_of_what_is_simulated(tmp_path: Path) -> None:
    verdicts = {}
    for claim, measure in exhibit.MEASURES.items():
        if claim.how == "simulated":
            found = measure(Scale.of(claim, True, tmp_path))
            verdicts[claim.name.rpartition(".")[2]] = judge(claim, found, quick=True).verdict
    assert verdicts == {
        "faster": "holds",
        "largest": "short",  # an allocator short of memory isn't simulated
        "flat": "holds",
        "table": "short",  # one ratio of 31: redistribution at the largest vocabulary and length
        "memory": "holds",
    }


@pytest.mark.multiprocess
def test_racers_come_to_the_same_loss(tmp_path: Path) -> None:
    race = Race(2, 2000, METHODS, microbatches=3, sequences=1, length=8, rounds=1, hidden=64, layers=2)
    assert race.blocks("redistribution") == (2, 0)
    ends = run(race, tmp_path)
    exhibit.check_losses(ends)
    assert all(len(end.seconds[method]) == 1 and end.grown_bytes > 0 for end in ends for method in METHODS)


def test_racers_that_disagree_are_refused() -> None:
    ends = [Finish({}, {"plain": 1.0, "vocab2": 1.0}, 1), Finish({}, {"plain": 0.0, "vocab2": 0.1}, 1)]
    with pytest.raises(RuntimeError, match="disagree on the loss"):
        exhibit.check_losses(ends)
