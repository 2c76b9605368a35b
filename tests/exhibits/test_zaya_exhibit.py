"""The ZAYA1 exhibit compares like with like, and its code runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from grainline.documents import ModelConfig
from grainline.exhibits import zaya_amd
from grainline.exhibits.frame import Scale
from grainline.exhibits.zaya_parity import kept
from grainline.models.count import attention_parameters, kv_cache_bytes_per_token, parameters, router_parameters


def test_models_differ_in_what_they_are_compared_by() -> None:
    models = zaya_amd.models()
    whole, narrow, cca = (models[name] for name in ("multi-head", "grouped-query", "CCGQA"))
    assert kv_cache_bytes_per_token(whole) == 8 * kv_cache_bytes_per_token(cca) == 8 * kv_cache_bytes_per_token(narrow)
    convolutions = attention_parameters(cca) - attention_parameters(narrow)
    a = cca.attention
    of_heads, of_channels = a.conv_channels * a.head_dim * 2, a.conv_channels * (2 + 2)
    assert convolutions == of_heads + of_channels + a.key_value_heads - 2 * a.head_dim  # those have gains instead
    linear = models["linear router"]
    layers = range(zaya_amd.LAYERS)
    routers = sum(router_parameters(cca, i) - router_parameters(linear, i) for i in layers)
    assert parameters(cca).total - parameters(linear).total == routers
    for config in models.values():
        ModelConfig.parse(config.tables(), "m.toml")  # what was put together holds


def test_the_published_model_is_the_example() -> None:
    example = ModelConfig.load(Path(__file__).parents[2] / "examples/models/zaya1.toml")
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    assert example.model_copy(update=ids) == zaya_amd.zaya1()


def test_states_are_weighed_without_room_that_is_not_used() -> None:
    of = zaya_amd.attentions()
    one, many = (kept(of["CCGQA"], zaya_amd.SIZE, n) for n in (1, 65))
    values, channels = 2 * zaya_amd.HEAD, 5 * zaya_amd.HEAD
    assert (one.cache, many.cache) == (4 * values, 65 * 4 * values)
    assert one.tail == many.tail == 4 * (2 * channels + zaya_amd.HEAD // 2)
    assert kept(of["multi-head"], zaya_amd.SIZE, 3).tail == 0


@pytest.mark.slow
def test_every_claim_runs_in_short(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    for claim, measure in zaya_amd.MEASURES.items():
        found = measure(Scale.of(claim, True, tmp_path))
        assert found.measured >= 0
        if claim.quick_decides:
            assert found.measured == 8 if claim is zaya_amd.CACHE else found.measured <= claim.bound
