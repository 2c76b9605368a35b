"""The MoE++ exhibit compares like with like, and its code runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from grainline.exhibits import moe_plus_plus as exhibit
from grainline.exhibits.frame import Scale
from grainline.exhibits.moe_plus_plus_time import EXPERTS, SHARES, Trial, fitted, prepared, routing
from grainline.exhibits.small_models import peak_rate, recipe
from grainline.models.count import parameters


@pytest.mark.parametrize("share", SHARES.values())
def test_drawn_routings_have_their_share_and_two_different_experts_for_each_token(share: float) -> None:
    drawn = routing(Trial(8, 8, 700), share)
    assert int((drawn.expert_N < EXPERTS).sum()) == round(share * 1400)
    first, second = drawn.expert_N.view(700, 2).T
    assert (first != second).all()
    assert torch.equal(drawn.unit_N, torch.arange(700).repeat_interleave(2))
    torch.testing.assert_close(drawn.score_N.view(700, 2).sum(1), torch.ones(700))
    assert len(drawn.counts_E) == (EXPERTS if share == 1 else EXPERTS + 4)
    assert int(drawn.counts_E.sum()) == 1400


def test_shares_are_those_of_the_published_tau() -> None:
    for tau, share in ((0.1, SHARES["s 0.29"]), (0.75, SHARES["s 0.75"]), (1.0, SHARES["s 0.8"])):
        assert share == pytest.approx(tau * 16 / (tau * 16 + 4))


def test_timed_work_is_all_of_the_layer_but_its_router() -> None:
    work = prepared(Trial(16, 8, 50))
    assert list(work) == list(SHARES)
    outs = [run() for run in work.values()]
    assert all(isinstance(out, torch.Tensor) and out.shape == (50, 16) and bool(out.any()) for out in outs)


def test_the_fit_finds_a_line() -> None:
    assert fitted([(s, 0.3 + 0.7 * s) for s in (0.2, 0.5, 1.0)]) == pytest.approx((0.3, 0.7))


def test_the_models_differ_in_costless_experts_alone(tmp_path: Path) -> None:
    scale = Scale.of(exhibit.TOKENS, False, tmp_path)
    plain, more = exhibit.model(None), exhibit.model(0.75)
    assert plain.moe is not None
    assert more.moe is not None
    assert more.moe.ffn_share == pytest.approx(0.6)
    assert (plain.moe.experts, plain.moe.bias_balanced) == (more.moe.experts, more.moe.bias_balanced) == (8, True)
    extra = parameters(more).total - parameters(plain).total
    assert 0 < extra < 0.02 * parameters(plain).total  # routers and vectors
    peak = peak_rate(scale, plain)
    tables = [recipe("x", config, scale, 1, peak).tables() for config in (plain, more)]
    for table in tables:
        del table["model"]
    assert tables[0] == tables[1]
    for name, changed in exhibit.ABLATIONS.items():
        moe = exhibit.model(0.75, changed=changed).moe
        assert moe is not None
        assert (moe.costless, moe.ffn_share) == (4, pytest.approx(0.6)), name
    by_loss = recipe("x", exhibit.model(0.75, by_loss=True), scale, 1, peak)
    assert (tables[0]["loss"]["balance_loss"], by_loss.loss.balance_loss) == (0.0, 0.01)
    short = recipe("x", plain, scale, 1, peak, 0.75)
    assert (short.training.steps, short.learning_rate.warmup_steps) == (450, 45)


@pytest.mark.slow
def test_every_claim_is_measured_by_real_runs(tmp_path: Path) -> None:
    told: list[str] = []
    found = {}
    for claim, measure in exhibit.MEASURES.items():
        found[claim.name] = measure(Scale.of(claim, True, tmp_path, told.append))
        json.dumps(found[claim.name].details)
    assert len([line for line in told if "seed 0: " in line]) == 6 + len(exhibit.ABLATIONS)
    cost = found["moe-plus-plus.flops"].details["cost"]
    assert cost["plain"] == cost["plain, fewer steps"] == 1
    assert all(0 < cost[f"MoE++, τ {tau:g}"] < 1 for tau in exhibit.TAUS)
    assert found["moe-plus-plus.bytes"].measured == 0
    counted = found["moe-plus-plus.bytes"].details
    assert counted["bytes"]["MoE++, τ 0.75"] < counted["bytes"]["plain"]
    ends = found["moe-plus-plus.tokens"].details["bits_per_byte"]
    assert found["moe-plus-plus.tokens"].measured == ends["MoE++, τ 0.75"][0] / ends["plain"][0]
    for name in ("time", "tokens", "flops", "share"):
        figure = found[f"moe-plus-plus.{name}"].figure
        assert figure is not None
        assert figure.startswith("<svg")
