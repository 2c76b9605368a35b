"""The SonicMoE exhibit counts what it says, compares like with like, and its code runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from grainline.exhibits import sonicmoe as exhibit
from grainline.exhibits.expert_memory import OURS, PEERS, Layer, kept_bytes, peak_bytes
from grainline.exhibits.frame import Scale, verdict
from grainline.exhibits.small_models import peak_rate, recipe


def test_formulas_give_the_published_figures() -> None:
    layers = [exhibit._layer(n) for n in (1024, 512, 256)]
    assert [layer.plain_bytes for layer in layers] == [27_648, 39_936, 64_512]
    assert {layer.least_bytes for layer in layers} == {11_264}


def test_kept_bytes_are_the_formulas_and_lists() -> None:
    layer = Layer(T=32, D=24, n=8, E=4, K=2)
    lists = layer.K * (8 + 4) + 8 * layer.E / layer.T  # units and scores, and counts
    assert kept_bytes(layer, "sonic") == layer.least_bytes + lists
    # Autograd's own also keeps silu(gate), which a fused activation would not, and scores made narrow.
    assert kept_bytes(layer, "reference") >= layer.plain_bytes + 2 * layer.K * layer.n


@pytest.mark.parametrize("claim", [exhibit.KEPT, exhibit.SHARE, exhibit.WASTE], ids=lambda claim: claim.name)
def test_exact_claims_hold(claim: exhibit.Claim, tmp_path: Path) -> None:
    measured = exhibit.MEASURES[claim](Scale.of(claim, True, tmp_path))
    assert verdict(claim, measured, quick=True) == "holds"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_peak_is_at_least_what_is_kept_and_returned() -> None:
    pytest.importorskip("transformers")
    layer = Layer(T=4096, D=256, n=64, E=8, K=4)
    returned = 2 * (3 * layer.E * layer.n * layer.D + 2 * layer.T * layer.D)  # gradients and the output
    kept = 4 * layer.T * layer.K * layer.n
    ours, theirs = peak_bytes(layer, OURS), peak_bytes(layer, PEERS[0])
    assert returned + kept <= ours.allocated < 1.1 * (returned + kept)  # the backward has little beside what it makes
    assert ours.allocated < theirs.allocated
    assert returned + kept < ours.resident < theirs.resident


def test_trained_models_differ_in_rounding_alone(tmp_path: Path) -> None:
    scale = Scale.of(exhibit.QUALITY, False, tmp_path)
    plain, two, one = (exhibit.model(scale, tiles) for tiles in (None, 2, 1))
    assert plain.moe is not None
    assert two.moe is not None
    assert one.moe is not None
    assert (two.moe.tile, one.moe.tile) == (128, 256)
    assert plain.moe.model_copy(update={"router": "token-rounding", "tile": 128}) == two.moe
    peak = peak_rate(scale, plain)
    tables = [recipe("x", config, scale, 1, peak).tables() for config in (plain, two)]
    for table in tables:
        del table["model"]
    assert tables[0] == tables[1]
