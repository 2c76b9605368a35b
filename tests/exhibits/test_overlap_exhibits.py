"""The exhibits of COMET and FlashMoE: their exact claims hold, against figures worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.exhibits import comet_moe, flashmoe
from grainline.exhibits.frame import Claim, Scale, verdict
from grainline.exhibits.played_peers import OVERLAPS, run_layers
from grainline.schedule.overlap.capacity import cell_rows, heap_bytes

EXACT = [comet_moe.HIDDEN, comet_moe.SPEED, comet_moe.CHUNKS, comet_moe.FORMULA, flashmoe.HEAP, flashmoe.PAYLOAD]


@pytest.mark.parametrize("claim", EXACT, ids=lambda claim: claim.name)
def test_exact_claims_hold(claim: Claim, tmp_path: Path) -> None:
    measures = {**comet_moe.MEASURES, **flashmoe.MEASURES}
    assert verdict(claim, measures[claim](Scale.of(claim, True, tmp_path)), quick=True) == "holds"


def test_mixtral_by_hand() -> None:
    found = comet_moe.layers("Mixtral")
    wave = 2 * 128 * 256 * 4096 * 132 / (0.75 * 989e12)  # of the first product; the second's is 3.5 times as long
    compute = 14 * wave + 4 * 3.5 * wave  # 1,792 and 512 tiles on 132 SMs
    exchange = 4096 * 7 / 8 * 4096 * 2 / 160e9
    assert found["serial"].seconds == pytest.approx(compute + 2 * exchange)
    assert found[comet_moe.BEST].seconds == pytest.approx(compute + exchange / 4)
    assert found["tile order, 8 SMs send"].seconds > found[comet_moe.BEST].seconds + 3 * wave  # a fifth wave


def test_one_queue_keeps_its_processors_busy() -> None:
    one = flashmoe.queue_seconds(64) - flashmoe.H100.launch_seconds
    flops = flashmoe.balanced(64).flops
    assert flops / 700e12 < one < 1.25 * flops / 700e12
    for launches in (33, 261):
        grown = flashmoe.phase_seconds(64, launches) - flashmoe.phase_seconds(64, 0)
        assert grown == pytest.approx(launches * 6e-6)


def test_the_row_of_the_table_that_cannot_be_had() -> None:
    assert heap_bytes(cell_rows(163840, 256), 256, 7168, 4) / 2**30 == 17.5


@pytest.mark.slow
def test_a_real_layer_runs_in_every_way() -> None:
    found = run_layers(0, 1, 64)
    assert set(found) == set(OVERLAPS)
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in found.values())
