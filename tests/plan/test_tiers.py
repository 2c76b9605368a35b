"""Shared memory: collectives in closed form, and serving from it against sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grainline.documents import Cluster, GrainlineError
from grainline.documents.cluster import SharedMemory
from grainline.models.catalogue import config_of
from grainline.models.count import kv_cache_bytes_per_token, parameters, touched_experts
from grainline.plan.tiers.collectives import Pool, ring_seconds
from grainline.plan.tiers.machine import Machine, machine_of
from grainline.plan.tiers.serving import Served, Wanted, serve

EXAMPLE = Path(__file__).parents[2] / "examples" / "clusters" / "fenghuang.toml"
LATENCIES = {"read": 220e-9, "write": 90e-9, "accumulate": 90e-9, "notify": 40e-9}
BIG = 1e12  # bytes, so that latencies vanish


def pool(ranks: int = 4, **keys: Any) -> Pool:
    tables = {
        "name": "pool",
        "capacity_bytes": 10**15,
        "bytes_per_second": 4.8e12,
        "operations": ["read", "write", "accumulate", "notify"],
        "latency_seconds": LATENCIES,
    }
    return Pool(ranks, SharedMemory.model_validate({**tables, **keys}))


@pytest.mark.parametrize(("ranks", "times"), [(4, 16.0), (8, 18.667)])
def test_an_all_reduce_is_so_much_sooner_than_a_ring(ranks: int, times: float) -> None:
    """arXiv 2511.10753: 16 times, which is the bandwidth bound of four ranks on NVLink at 450 GB/s."""
    ring = ring_seconds("all-reduce", ranks, BIG, 2e-6, 450e9)
    assert ring / pool(ranks).seconds("all-reduce", BIG, chunks=10**9) == pytest.approx(times, rel=1e-3)
    sent = ring_seconds("point-to-point", ranks, BIG, 0, 450e9)
    assert sent / pool(ranks).seconds("point-to-point", BIG, chunks=10**9) == pytest.approx(10.67, rel=1e-3)


def test_latencies_are_those_of_three_operations() -> None:
    for kind in ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "point-to-point"):
        assert pool().seconds(kind, 0.0) == pytest.approx(350e-9)  # type: ignore[arg-type]
    assert pool(1).seconds("all-reduce", BIG) == 0
    assert ring_seconds("all-reduce", 8, 0.0, 650e-9, 1e9) == pytest.approx(9.1e-6)
    assert ring_seconds("all-gather", 8, 8.0, 0.0, 1.0) == 7.0


def test_what_a_pool_cant_do_costs() -> None:
    plain = pool(operations=["read", "write", "notify"], latency_seconds={})
    assert plain.seconds("all-reduce", 4.8e12, chunks=10**9) == pytest.approx(4.0)
    assert pool(duplex="half").seconds("all-reduce", 4.8e12, chunks=10**9) == pytest.approx(2.0, rel=1e-3)
    # A crossbar of four ports needs as much of its banks; here they have half of what both directions want.
    assert pool(banks_bytes_per_second=4 * 4.8e12).bytes_per_second(both_ways=True) == pytest.approx(2.4e12)
    assert pool(banks_bytes_per_second=4 * 4.8e12).bytes_per_second() == pytest.approx(4.8e12)
    with pytest.raises(GrainlineError, match=r"shared_memory 'pool': collectives need a word .* add notify"):
        pool(operations=["read", "write", "accumulate"], latency_seconds={}).seconds("all-reduce", 1.0)
    with pytest.raises(GrainlineError, match="0 devices share it"):
        pool(0)


QWEN = config_of("Qwen3-235B-A22B")


def machine(cluster: Cluster, **keys: Any) -> Machine:
    return machine_of(cluster, "float8", ideal=True, **keys)


def served(cluster: Cluster | None = None, **keys: Any) -> Served:
    wanted = {"dtype": "float8", "cache_dtype": "float8", **keys}
    size = (wanted.pop("batch", 8), wanted.pop("context", 4096), wanted.pop("out", 1024))
    return serve(QWEN, machine(cluster or Cluster.load(EXAMPLE)), Wanted(*size, **wanted))


def touched_bytes() -> float:
    """Weights that eight tokens read, of all ranks: the embedding's rows are nothing."""
    found = parameters(QWEN)
    experts = QWEN.layers * 128 * 3 * 4096 * 1536
    return found.total - found.embedding - experts + experts * touched_experts(128, 8, 8) / 128


def with_local(bytes_: float, **keys: Any) -> Cluster:
    found = Cluster.load(EXAMPLE).tables()
    found["device_types"][0]["memory"][0]["capacity_bytes"] = int(bytes_)
    found["shared_memory"][0].update(keys)
    return Cluster.parse(found)


def test_a_token_by_hand() -> None:
    one = served(staged=False, routing="predicted", lookahead=12)
    cache = 8 * (4096 + 512) * kv_cache_bytes_per_token(QWEN, "float8")
    local = touched_bytes() + cache - 4 * one.token.fetched_bytes
    assert touched_experts(128, 8, 8) == pytest.approx(51.6, abs=0.05)
    assert touched_bytes() == pytest.approx(98.3e9, rel=0.01)
    compute = local / 4 / 4.8e12 + one.token.collective_seconds
    assert one.token.compute_seconds == pytest.approx(compute, rel=0.01)  # bound by memory everywhere
    fetch = one.token.fetched_bytes / 4.8e12
    assert max(compute, fetch) * (1 - 1e-9) <= one.tpot_seconds <= compute + fetch + 94 * 220e-9
    assert one.token.seconds == pytest.approx(one.token.compute_seconds + one.token.stall_seconds)
    staged = served(staged=True, routing="predicted", lookahead=12)
    assert staged.token.compute_seconds - one.token.compute_seconds == pytest.approx(2 * fetch, rel=0.01)


def test_everything_local_is_a_sum() -> None:
    """Eight H200: 2.56 ms of weights, and 188 all-reduces."""
    from grainline.hardware.cluster import Cluster as Any8

    floors = [
        serve(QWEN, machine(Any8.of("8xH200"), floor_seconds=s), Wanted(8, 1, 1, "float8", "float8")) for s in (0, 9e-6)
    ]
    idle, busy = (one.tpot_seconds for one in floors)
    assert busy - idle == pytest.approx(188 * 9e-6, rel=1e-3)
    assert idle == pytest.approx(touched_bytes() / 8 / 4.8e12, rel=0.03)
    assert floors[0].token.stall_seconds == 0


def test_more_of_anything_never_hurts() -> None:
    base = served(routing="predicted")
    assert served(with_local(30e9), routing="predicted").tpot_seconds < base.tpot_seconds
    assert served(with_local(20e9, bytes_per_second=6.4e12), routing="predicted").tpot_seconds < base.tpot_seconds
    assert base.tpot_seconds <= served(routing="stall").tpot_seconds + 1e-12
    assert base.token.peak_bytes <= 20e9
    assert base.first.peak_bytes <= 20e9 * (1 + 1e-9)
    assert served(with_local(70e9)).token.fetched_bytes == 0


def test_a_small_budget_pages_the_cache_and_writes_it_back() -> None:
    one = served(with_local(1.0e9), lookahead=1)
    per_token = 8 * kv_cache_bytes_per_token(QWEN, "float8") / 4
    assert one.token.written_bytes == pytest.approx(per_token, rel=0.3)
    assert one.token.written_bytes > 0
    assert one.pinned_experts == 0


@pytest.mark.parametrize(
    ("cluster", "keys", "words"),
    [
        (with_local(1e8), {}, r"operator experts 0 needs .* bytes at once.* and the local budget is 100,000,000"),
        (with_local(20e9), {"context": 2_000_000}, r"a cache of .* are more than the 576.0 GB of the pool 'pool'"),
        (with_local(20e9), {"batch": 0}, "batch 0: must be at least 1"),
        (with_local(20e9), {"dtype": "float9"}, "dtype 'float9': known are"),
    ],
)
def test_what_cant_be_is_refused(cluster: Cluster, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(GrainlineError, match=words):
        served(cluster, **keys)


def test_unlike_devices_and_missing_ports_are_refused() -> None:
    found = Cluster.load(EXAMPLE).tables()
    found["nodes"].append({"name": "other", "devices": {"xPU": 1}})
    found["links"] = [{"between": ["rack", "other"], "latency_seconds": 1e-6, "bytes_per_second": 1e9}]
    found["shared_memory"][0]["nodes"] = ["rack"]
    with pytest.raises(GrainlineError, match="4 of 5 devices have a port"):
        machine(Cluster.parse(found))
    with pytest.raises(GrainlineError, match="devices of 2 types"):
        machine(Cluster.load(EXAMPLE.parent / "mixed.toml"))
