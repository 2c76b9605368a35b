"""Ops of serving against sums written out, and the roofline over them."""

import math
import random

import pytest

from grainline.documents import Attention, GrainlineError, ModelConfig, Moe
from grainline.models.count import flops_per_token, parameters, touched_experts, weight_bytes
from grainline.plan.serving import ops
from grainline.plan.serving.calibrate import Sample, calibrated
from grainline.plan.serving.replica import USABLE, group_of, listed_replica
from grainline.plan.serving.speed import link_rate, listed_speed
from grainline.plan.serving.step import Chunk, step_ops
from grainline.plan.serving.times import Times, chunks_of

DENSE = ModelConfig(
    family="llama",
    vocab_size=1024,
    hidden_size=256,
    layers=3,
    ffn_hidden=512,
    attention=Attention(heads=8, kv_heads=4, head_dim=32),
)
SPARSE = DENSE.model_copy(
    update={"moe": Moe(experts=16, top_k=4, expert_hidden=64, shared_experts=1, dense_layers=(0,))}
)
LATENT = DENSE.model_copy(
    update={"attention": Attention(kind="mla", heads=8, head_dim=32, kv_rank=64, rope_dim=16, value_dim=32)}
)


def test_product_counts_what_a_loop_counts() -> None:
    op = ops.product(3, 5, 7, "bfloat16", "int8")
    flops = sum(2 for _ in range(3) for _ in range(5) for _ in range(7))
    assert op.flops == flops
    assert op.bytes == 5 * 7 * 1 + 3 * 7 * 2 + 3 * 5 * 2


def test_prefill_counts_causal_pairs_of_whole_tiles() -> None:
    # Each of 300 new tokens sees those before it; tiles of 128 on the diagonal are computed whole, about.
    op = ops.prefill(2, 300, 100, 4, 2, 16, 16, "bfloat16", "bfloat16")
    pairs = sum(100 + i + 1 for i in range(300))
    exact = 2 * 4 * 2 * (16 + 16) * pairs
    assert exact < op.flops < exact * (1 + 128 / 300)
    assert op.tiles == 2 * 4 * 3


def test_decode_reads_the_cache_once_for_each_group_of_heads() -> None:
    op = ops.decode(6, 1000, 8, 2, 32, 32, "bfloat16", "float8")
    assert op.bytes == 6 * (2 * 64 * 1000 * 1 + 8 * 64 * 2)
    assert op.flops == 2 * 6 * 8 * 64 * 1000
    assert ops.decode(6, 1000, 8, 2, 32, 32, "bfloat16", "float8", window=100).flops == op.flops / 10


def test_latent_attention_reads_keys_and_values_as_one() -> None:
    op = ops.decode(1, 100, 8, 1, 80, 64, "bfloat16", "bfloat16", latent=True)
    assert op.bytes == 80 * 100 * 2 + 8 * (80 + 64) * 2


def test_experts_touch_as_many_as_tokens_choose() -> None:
    draw = random.Random(0)
    seen = [len({e for _ in range(5) for e in draw.sample(range(16), 4)}) for _ in range(4000)]
    op = ops.experts(5, 256, 64, 16, 4, "bfloat16", "bfloat16")
    touched = touched_experts(16, 4, 5)
    assert touched == pytest.approx(sum(seen) / len(seen), rel=0.01)
    weights = touched * 3 * 256 * 64 * 2
    assert weights < op.bytes < weights + 5 * 4 * (256 * 8 + 64 * 8) + 5 * 256 * 2
    assert op.flops >= 6 * 5 * 4 * 256 * 64


@pytest.mark.parametrize("config", [DENSE, SPARSE, LATENT])
def test_a_steps_products_are_the_models_flops(config) -> None:
    """A prompt of n tokens, op by op, against `models.count` (tiles and padded rows aside, a few per cent)."""
    n = 512
    replica = listed_replica("H100", config)
    counted = step_ops(replica, 0, 0, (Chunk(n),))
    found = sum(op.flops * times for op, times in counted)
    head = 2 * config.vocab_size * config.hidden_size
    expected = n * (flops_per_token(config, n, backward=False, mtp=0) - head) + head
    assert found == pytest.approx(expected, rel=0.25)
    assert found > 0.95 * expected


def test_tensor_parallelism_splits_the_work_and_adds_messages() -> None:
    one, four = (listed_replica(name, DENSE) for name in ("A100-80", "4xA100-80"))
    alone = step_ops(one, 8, 100)
    shared = step_ops(four, 8, 100)
    flops = [sum(op.flops * n for op, n in counted) for counted in (alone, shared)]
    assert flops[1] == pytest.approx(flops[0] / 4, rel=1e-9)
    messages = [(op, n) for op, n in shared if op.family == "all-reduce"]
    assert [(op.bytes, n) for op, n in messages] == [(8 * 256 * 2, 2 * DENSE.layers)]
    assert not any(op.family == "all-reduce" for op, _ in alone)


def test_memory_of_a_replica() -> None:
    plain = listed_replica("A100-80", DENSE)
    assert plain.weight_bytes == weight_bytes(DENSE)
    tables = 2 * DENSE.vocab_size * DENSE.hidden_size
    narrow = listed_replica("A100-80", DENSE, weights="int4")
    assert narrow.weight_bytes == (parameters(DENSE).total - tables) * 0.5 + tables * 2
    per_token = 3 * 2 * 4 * 32 * 2
    assert plain.cache_tokens == pytest.approx((USABLE * 80e9 - plain.weight_bytes) / per_token)
    # Heads of keys and values are split over two ranks; MLA's latent can't be.
    assert listed_replica("2xA100-80", DENSE).cache_bytes_per_token == per_token / 2
    assert listed_replica("2xA100-80", LATENT).cache_bytes_per_token == 3 * (64 + 16) * 2


def test_table_of_times_agrees_with_ops() -> None:
    times = Times(listed_replica("A10G", SPARSE))
    for b, context, chunks in (
        (1, 30, ()),
        (17, 900, ()),
        (5, 100, (Chunk(77, 40), Chunk(300))),
        (0, 0, (Chunk(2048),)),
    ):
        assert times.step(b, context, *chunks) == pytest.approx(times.exact(b, context, *chunks), rel=0.05)
    assert times.step(0, 0) == 0


def test_a_memory_bound_product_takes_its_weights_time() -> None:
    speed = listed_speed("A100-80")
    op = ops.product(1, 16384, 16384, "bfloat16", "bfloat16")
    reached = speed.reached["product"]
    assert speed.seconds(op) == pytest.approx(reached.start_seconds + op.bytes / (2039e9 * reached.memory))


def test_a_ring_carries_large_messages_and_one_shot_small_ones() -> None:
    speed = listed_speed("H100", 8)
    reached = speed.reached["all-reduce"]
    rate = 450e9 * reached.memory
    large, small = ops.collective("all-reduce", 1e9, 8), ops.collective("all-reduce", 1024, 8)
    assert speed.seconds(large) == pytest.approx(2 * reached.start_seconds + 2 * 7 / 8 * 1e9 / rate)
    assert speed.seconds(small) == pytest.approx(reached.start_seconds + 7 * 1024 / rate)


def test_links_by_the_catalogue() -> None:
    from grainline.hardware.catalogue import catalogue

    assert link_rate(catalogue().device("H100"), 8) == 450e9
    assert link_rate(catalogue().device("MI300X"), 8) == 7 * 64e9  # a line to each of the others
    assert link_rate(catalogue().device("A10G"), 2) == 31.5e9 / 2  # to the host and out again
    assert link_rate(catalogue().device("RTX A6000"), 4) == 31.5e9 / 2  # bridges join two


def test_more_of_anything_takes_no_less_time() -> None:
    times = Times(listed_replica("H100", SPARSE))
    for wider in (2, 8, 64):
        assert times.step(wider, 100) >= times.step(wider // 2, 100)
        assert times.step(wider, 200) >= times.step(wider, 100)


def test_chunks_cover_a_prompt() -> None:
    chunks = chunks_of(5000, 100, 2048)
    assert [(c.new, c.past) for c in chunks] == [(2048, 100), (2048, 2148), (904, 4196)]


@pytest.mark.parametrize("name", ["3xA100-80", "0xH100"])
def test_groups_are_powers_of_two(name) -> None:
    with pytest.raises(GrainlineError, match="groups are of 1, 2, 4"):
        group_of(name)


def test_heads_must_split() -> None:
    with pytest.raises(GrainlineError, match="8 attention heads don't split over 16"):
        listed_replica("16xH100", DENSE)


def test_a_device_without_a_rate_is_named() -> None:
    with pytest.raises(GrainlineError, match="weights in 'float7': known are"):
        listed_replica("A100-80", DENSE, weights="float7")


def truth(op):
    """A device that the roofline doesn't know: slower where inner sizes are small."""
    return 7e-6 + op.flops / 90e12 + op.bytes / 1.1e12 + 2e-6 * math.log2(op.sizes[0] + 1) * (1 + 300 / op.sizes[2])


def test_calibration_learns_what_the_roofline_misses() -> None:
    draw = random.Random(1)

    def some(count):
        sizes = [[2 ** draw.uniform(low, 14) for low in (0, 7, 7)] for _ in range(count)]
        return [ops.product(*map(round, row), "bfloat16", "bfloat16") for row in sizes]

    speed = listed_speed("A100-80")
    after = calibrated(speed, [Sample(op, truth(op)) for op in some(400)])
    held_out = some(200)
    errors = [sorted(abs(model.seconds(op) / truth(op) - 1) for op in held_out)[100] for model in (speed, after)]
    assert errors[1] < 0.06 < errors[0]
    assert after.source == "calibrated"


def test_calibration_meets_its_own_samples_and_leaves_other_kinds() -> None:
    speed = listed_speed("A100-80")
    op = ops.decode(4, 100, 8, 8, 64, 64, "bfloat16", "bfloat16")
    other = ops.product(4, 128, 128, "bfloat16", "bfloat16")
    after = calibrated(speed, [Sample(op, 123e-6)])
    assert after.seconds(op) == pytest.approx(123e-6)
    assert after.seconds(other) == speed.seconds(other)


def test_calibration_refuses_what_is_no_time() -> None:
    with pytest.raises(GrainlineError, match="not a time"):
        calibrated(listed_speed("H100"), [Sample(ops.move(100.0), 0.0)])
