"""Sizing rules: the brief's own figures, counting by hand, and lines that were drawn before they are fitted."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import GrainlineError, ModelConfig
from grainline.documents.cluster import DeviceType
from grainline.hardware.shorthand import cluster_of
from grainline.hardware.topology import topology
from grainline.models.count import kv_cache_bytes_per_token, state_bytes_per_sequence
from grainline.models.dial import config_for_depth, dense_twin
from grainline.plan.shapes import Device, dimensions, expert_width, lines, products
from grainline.plan.sizing import (
    Collective,
    Line,
    bus_factor,
    fit,
    largest_power,
    quantised,
    widest_for_nothing,
)

ZAYA1 = ModelConfig.load(Path(__file__).parents[2] / "examples/models/zaya1.toml")
MI300X = Device.of(cluster_of("8xMI300X").device_types[0], "bfloat16")


def test_the_bucket_of_the_printed_example() -> None:
    """30 µs, 50 GB/s, 90 %: 13.5 MB; and a tenth of it takes 1.9 times as long for the same bytes."""
    line = Line(30e-6, 50e9)
    bucket = line.bucket_bytes(0.9)
    assert bucket == pytest.approx(13.5e6)
    assert line.efficiency(bucket) == pytest.approx(0.9)
    assert 10 * line.seconds(bucket / 10) / line.seconds(bucket) == pytest.approx(1.9, abs=0.005)
    with pytest.raises(GrainlineError, match="must lie between 0 and 1"):
        line.bucket_bytes(1.0)


@given(
    alpha=st.floats(1e-7, 1e-3),
    rate=st.floats(1e8, 1e12),
    noise=st.floats(0, 0.02),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_a_line_is_found_again_behind_noise(alpha: float, rate: float, noise: float, seed: int) -> None:
    """In sizes around the bend, where both terms can be told apart; times of others are predicted as well."""
    line, draw = Line(alpha, rate), random.Random(seed)
    bend = alpha * rate
    sizes = [bend * 4.0**k for k in range(-3, 4)]
    found = fit([(m, line.seconds(m) * (1 + noise * draw.uniform(-1, 1))) for m in sizes for _ in range(3)])
    assert found.latency_seconds == pytest.approx(alpha, rel=0.002 + 4 * noise)
    assert found.bytes_per_second == pytest.approx(rate, rel=0.002 + 4 * noise)
    for m in (bend / 5, 3 * bend):
        assert found.seconds(m) == pytest.approx(line.seconds(m), rel=0.001 + 2 * noise)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([(1e3, 1e-5), (1e6, 2e-5), (1e6, 2e-5)], "2 sizes of messages don't make a line: measure at least 3"),
        ([(1e3, 3e-5), (1e4, 2e-5), (1e5, 1e-5)], "the clock is too coarse"),
        ([(1e3, 1e-5), (1e4, 1e-5), (1e5, 1e-5)], "the clock is too coarse"),
        ([(1e3, 0.0), (1e4, 1e-5), (1e5, 1e-5)], "must be positive numbers"),
        ([(1e3, 1e-5), (1e4, math.nan), (1e5, 1e-5)], "must be positive numbers"),
    ],
)
def test_what_is_no_line_is_refused(samples: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(GrainlineError, match=message):
        fit(samples)


def ring_bytes(collective: Collective, ranks: int, size: int) -> int:
    """What one rank sends, counted step by step, where chunks go round in a ring."""
    chunk = size // ranks
    steps = {
        "reduce-scatter": ranks - 1,
        "all-gather": ranks - 1,
        "all-reduce": 2 * (ranks - 1),
        "all-to-all": ranks - 1,
    }
    if collective == "broadcast":  # the first rank sends all chunks, one after another, and each hands them on
        return sum(chunk for _ in range(ranks))
    return sum(chunk for _ in range(steps[collective]))


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("collective", ["all-reduce", "reduce-scatter", "all-gather", "all-to-all", "broadcast"])
def test_bus_factors_are_bytes_that_a_ring_moves(collective: Collective, ranks: int) -> None:
    size = 1024 * ranks
    assert bus_factor(collective, ranks) * size == pytest.approx(ring_bytes(collective, ranks, size))
    with pytest.raises(GrainlineError, match="takes at least 2"):
        bus_factor(collective, 1)


def test_tiles_and_waves_of_the_printed_example() -> None:
    """256 × 256 tiles on 304 CUs: 8192 × 4096 is 0.842, 8192 × 4864 is 1.0: 19 % more columns for nothing."""
    narrow, wide = quantised(8192, 4096, 304), quantised(8192, 4864, 304)
    assert narrow.efficiency == pytest.approx(0.842, abs=5e-4)
    assert (wide.efficiency, wide.waves) == (1.0, narrow.waves)
    assert widest_for_nothing(8192, 4096, 304) == 4864
    with pytest.raises(GrainlineError, match="must be positive"):
        quantised(0, 4096, 304)


@given(
    m=st.integers(1, 90), n=st.integers(1, 90), units=st.integers(1, 40), copies=st.integers(1, 5),
    tile=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)  # fmt: skip
@settings(deadline=None, max_examples=80)
def test_quantisation_by_laying_tiles(m: int, n: int, units: int, copies: int, tile: tuple[int, int]) -> None:
    laid = [(c, i, j) for c in range(copies) for i in range(0, m, tile[0]) for j in range(0, n, tile[1])]
    waves = [laid[i : i + units] for i in range(0, len(laid), units)]
    found = quantised(m, n, units, tile, copies)
    assert (found.tiles, found.waves) == (len(laid), len(waves))
    done = copies * m * n / (len(waves) * units * tile[0] * tile[1])
    assert found.efficiency == pytest.approx(done)
    free = widest_for_nothing(m, n, units, tile, copies)
    assert quantised(m, max(n, free), units, tile, copies).waves == found.waves
    assert quantised(m, free + 1, units, tile, copies).waves > found.waves


def test_alignment_of_a_model() -> None:
    assert [largest_power(n) for n in (1, 50_257, 96, 64, 2048, 262_272)] == [1, 1, 32, 64, 64, 64]
    assert all(dim.advice is None for dim in dimensions(ZAYA1, 8192))
    odd = ZAYA1.model_copy(update={"vocab_size": 50_257})
    found = {dim.name: dim for dim in dimensions(odd, 8200)}
    assert (found["vocab_size"].divisor, found["vocab_size"].advice) == (1, 50_304)
    assert found["tokens per expert"].value == 512
    assert (found["tokens"].divisor, found["tokens"].advice) == (8, 8256)
    dense = {dim.name for dim in dimensions(dense_twin(config_for_depth(4, 512, 64)), 64)}
    assert "ffn_hidden" in dense
    assert "tokens per expert" not in dense


def test_products_of_experts_run_at_once() -> None:
    found = {p.name: p for p in products(ZAYA1, 8192)}
    up = found["expert up"]
    assert (up.rows, up.columns, up.inner, up.copies) == (512, 4096, 2048, 16)
    assert quantised(up.rows, up.columns, 304, copies=up.copies).efficiency == pytest.approx(0.842, abs=5e-4)
    assert (found["q"].columns, found["o"].inner) == (1024, 1024)


def intensity(m: float, D: float, F: float) -> float:
    """FLOPs per byte of [m, D] × [D, 2F] in bfloat16."""
    return 2 * m * D * 2 * F / (2 * (m * D + D * 2 * F + m * 2 * F))


def test_experts_are_wide_enough_to_compute_and_narrow_enough_to_decode() -> None:
    found = expert_width(ZAYA1, MI300X, 8192, decode_seconds=0.5e-3)
    assert found.knee == pytest.approx(1307.4e12 / 5300e9)
    assert found.intensity == pytest.approx(intensity(512, 2048, 2048))
    assert found.computes
    assert found.narrowest is not None
    assert intensity(512, 2048, found.narrowest) == pytest.approx(found.knee)
    assert found.narrowest < 2048
    assert found.fewest_tokens is not None
    assert intensity(found.fewest_tokens, 2048, 2048) == pytest.approx(found.knee)
    # All but the experts, and experts of that width, are read in the time that was given.
    assert found.widest is not None
    others = 40 * (2048 * 128 * 20 + 1280 * 128 * 2)  # attention's matrices; the rest is small
    weights = others + 262_272 * 2048 + 40 * 3 * 2048 * found.widest
    assert weights * 2 / 5300e9 == pytest.approx(0.5e-3, rel=0.03)


def test_few_tokens_reach_the_knee_with_no_width() -> None:
    found = expert_width(ZAYA1, MI300X, 1024)
    assert (found.computes, found.narrowest, found.widest) == (False, None, None)
    small = expert_width(config_for_depth(4, 512, 64), MI300X, 1024)
    assert small.fewest_tokens is None  # F is so small that no number of tokens is enough
    with pytest.raises(GrainlineError, match="has no experts"):
        expert_width(dense_twin(config_for_depth(4, 512, 64)), MI300X, 1024)
    with pytest.raises(GrainlineError, match=r"flops_per_second.int4 isn't told"):
        Device.of(cluster_of("8xMI300X").device_types[0], "int4")
    bare = DeviceType.model_validate({"name": "x", "kind": "gpu", "flops_per_second": {"bfloat16": 1e12}})
    with pytest.raises(GrainlineError, match="memory's bytes_per_second isn't told"):
        Device.of(bare, "bfloat16")


def test_ways_of_a_cluster_are_told_once() -> None:
    wires = topology(cluster_of("3x(4xMI300X)@NDR"))
    found = lines(wires)
    assert len(found) == 2
    assert all(line.bytes_per_second > 0 for line in found)
    inside, between = (
        next(line for line, ends in found.items() if (ends[0] == ends[1]) == same) for same in (True, False)
    )
    assert inside.bucket_bytes() < between.bucket_bytes()


def test_the_cache_is_an_eighth_of_attention_in_the_whole_width() -> None:
    """16 heads of 128 with keys and values of their own, as D = 2048 has them: 4096 values; here 512."""
    whole = ZAYA1.model_copy(
        update={"attention": ZAYA1.attention.model_copy(update={"kind": "gqa", "heads": 16, "kv_heads": 16})}
    )
    assert kv_cache_bytes_per_token(whole) == 8 * kv_cache_bytes_per_token(ZAYA1)
    assert kv_cache_bytes_per_token(ZAYA1) == 40 * 512 * 2
    assert state_bytes_per_sequence(ZAYA1) == 40 * (2 * 1280 + 128) * 2
    assert state_bytes_per_sequence(whole) == 0
