"""BigMac's ledger against its printed figures, and what layers of ours send against it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grainline.documents import Attention, ModelConfig, Moe
from grainline.plan.bottleneck import (
    PASSES_OF_A_STEP,
    Sizes,
    behind_bottleneck,
    break_even_share,
    fine_grained,
    speed_up,
)
from grainline.plan.expert_work import WAYS, expert_work

XL = Sizes(
    layers=24,
    hidden=2048,
    vocabulary=50257,
    sequence=2048,
    experts=64,
    top_k=8,
    ratio=0.25,
    batch_tokens=2**19,
    ranks=32,
)


def test_the_ledger_gives_the_printed_figures() -> None:
    plain, narrow = fine_grained(XL), behind_bottleneck(XL)
    assert round(plain.parameters / 1e9, 3) == 3.729
    assert round(plain.flops / 1e12, 1) == 3490.4
    assert plain.all_to_all_bytes / 2**30 == 1488.0
    more = narrow.over(plain)
    assert round(100 * more.parameters, 2) == 1.35
    assert round(100 * more.flops, 2) == 4.54
    assert more.all_to_all_bytes == -0.75


def test_the_speed_up_is_amdahls() -> None:
    assert speed_up(0.0, 0.05, 4) == pytest.approx(1 / 1.05)  # on one rank it only costs
    assert speed_up(1.0, 0.05, 4) == pytest.approx(4)
    share = break_even_share(0.05, 4)
    assert speed_up(share, 0.05, 4) == pytest.approx(1)
    assert speed_up(share + 0.01, 0.05, 4) > 1
    assert [round(speed_up(a, 0.045, 4), 2) for a in (0.918,)] == [3.17]


def config(**moe: object) -> ModelConfig:
    return ModelConfig(
        vocab_size=XL.vocabulary,
        hidden_size=XL.hidden,
        layers=XL.layers,
        ffn_hidden=8192,
        attention=Attention(heads=16, head_dim=128),
        moe=Moe.model_validate({"experts": 64, "top_k": 8, "expert_hidden": 512} | moe),
    )


def test_layers_send_what_the_ledger_says() -> None:
    plain, narrow = expert_work(config()), expert_work(config(expert="bottleneck", latent=512, expert_hidden=2048))
    assert plain is not None
    assert narrow is not None
    steps = XL.layers * XL.batch_tokens * PASSES_OF_A_STEP / WAYS
    alone = replace(XL, ranks=10**9)  # all chosen experts are elsewhere
    assert plain.sent_bytes * steps == pytest.approx(fine_grained(alone).all_to_all_bytes)
    assert narrow.sent_bytes * steps == pytest.approx(behind_bottleneck(alone).all_to_all_bytes)
    assert (plain.sent_share, narrow.sent_share) == (1, 0.25)
    assert (plain.ffns_per_token, narrow.ffns_per_token, narrow.cost) == (8, 8, 1)


def test_costless_experts_are_neither_computed_nor_sent() -> None:
    """The published sizes of MoE++: an upper bound of 1/s on the speed-up of experts."""
    bounds = ((16, 2, 0.75, 4 / 3), (16, 2, 1.0, 1.25), (16, 2, 0.1, 3.5), (8, 2, 0.75, 5 / 3))
    for experts, constant, tau, bound in bounds:
        work = expert_work(config(experts=experts, top_k=2, zero=1, copy_experts=1, constant=constant, tau=tau))
        assert work is not None
        assert 1 / work.cost == pytest.approx(bound, abs=1e-3)
        assert work.ffns_per_token == pytest.approx(2 / bound, abs=1e-3)
        assert work.sent_share == work.cost
    both = expert_work(config(expert="bottleneck", latent=512, zero=1, copy_experts=1, constant=14))
    assert both is not None
    assert both.sent_share == pytest.approx(both.cost / 4) == pytest.approx(0.75 / 4)


def test_a_dense_model_has_none() -> None:
    assert expert_work(config().model_copy(update={"moe": None})) is None
