"""The BigMac exhibit: printed figures against the ledger, equal models, and that its code runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grainline.exhibits import bigmac as exhibit
from grainline.exhibits import bigmac_events
from grainline.exhibits.frame import Scale
from grainline.models.count import expert_parameters, parameters
from grainline.plan.bottleneck import speed_up


def test_added_work_is_the_published_share() -> None:
    assert [round(100 * exhibit.added(k), 1) for k in (4, 8)] == [5.5, 4.5]


def test_the_model_of_a_step_gives_the_known_speed_ups(tmp_path: Path) -> None:
    by_bytes = {k: round(speed_up(a, exhibit.added(k), 4), 2) for k, a in exhibit.TRAINING.items()}
    assert by_bytes == {1: 1.73, 2: 2.07, 4: 2.65, 6: 2.97, 8: 3.17}
    found = exhibit.measure_speed(Scale.of(exhibit.SPEED, True, tmp_path))
    assert {k: round(v, 2) for k, v in found.details["model"].items()} == {4: 2.44, 8: 3.01}
    assert found.measured == pytest.approx(0.03, abs=0.002)
    assert found.figure is not None


def test_all_models_have_equal_experts() -> None:
    models = exhibit.models()
    fine, large = models.pop("fine-grained"), models.pop("large")
    assert fine.moe is not None
    assert large.moe is not None
    weights = {name: expert_parameters(config) for name, config in models.items()}
    assert set(weights.values()) == {expert_parameters(fine)}
    assert expert_parameters(large) * large.moe.experts == expert_parameters(fine) * fine.moe.experts
    assert expert_parameters(large) * large.moe.top_k == expert_parameters(fine) * fine.moe.top_k
    assert parameters(models["bottleneck, r 1/4"]).total - parameters(fine).total == 4 * 2 * 128 * 32


@pytest.mark.slow
def test_every_claim_is_measured(tmp_path: Path) -> None:
    told: list[str] = []
    found = {}
    for claim, measure in exhibit.MEASURES.items():
        found[claim.name] = measure(Scale.of(claim, True, tmp_path, told.append))
        json.dumps(found[claim.name].details)
    assert len([line for line in told if "bits per byte" in line]) == 5
    assert found["bigmac.bytes"].measured == 0
    assert found["bigmac.ledger"].measured < 0.001
    ends = found["bigmac.quality"].details["bits_per_byte"]
    assert found["bigmac.quality"].measured == ends["bottleneck, r 1/4"][0] / ends["fine-grained"][0]
    assert found["bigmac.large"].measured == ends["bottleneck, r 1/4"][0] / ends["large"][0]


def test_messages_alone_are_a_quarter_and_share_what_they_cross() -> None:
    """Closed forms: a machine's 8 GPUs send 24/32 of their rows through one port; without messages products add up."""
    pair = 1e6
    crossing = bigmac_events.GPUS * (bigmac_events.RANKS - bigmac_events.GPUS) * pair
    one_way = crossing / bigmac_events.PORT_BYTES + bigmac_events.LATENCY_SECONDS
    assert bigmac_events.seconds_of(bigmac_events.Pass(pair, 0.0, 0.0)) == pytest.approx(2 * one_way, rel=1e-6)
    assert bigmac_events.seconds_of(bigmac_events.Pass(pair, 1.0, 2.0)) == pytest.approx(3 + 2 * one_way, rel=1e-6)
    chunked = bigmac_events.seconds_of(bigmac_events.Pass(pair, 1.0, 2.0, chunks=4))
    latest = 1 + one_way / 4 + 2 + one_way / 4  # messages hide behind experts but for the first and last chunk's
    assert chunked == pytest.approx(latest, rel=1e-3)


def test_events_agree_with_the_model_where_nothing_overlaps(tmp_path: Path) -> None:
    told: list[str] = []
    found = exhibit.measure_events(Scale.of(exhibit.EVENTS, True, tmp_path, told.append))
    for k, one in found.details["simulated"][1].items():
        expected = speed_up(exhibit.TRAINING[k], exhibit.added(k), one["gain"])
        assert one["plain"] / one["narrow"] == pytest.approx(expected, rel=1e-6)
        assert 3.9 < one["gain"] < 4
    assert found.measured == pytest.approx(2.644 / 2.37 - 1, abs=1e-3)
    assert len(told) == 2
