"""FengHuang (arXiv 2511.10753): small local memories, one pool, paging ahead, reductions in memory.

What follows from published figures is derived (local memory, collectives). Half as many accelerators at kept speed is
worked out for uniform routing and FP8 at the data sheets' rates: that depends on what a small all-reduce on NVLink
takes, so the time at which both are equal is told. All is simulated, as in the report.
"""

from __future__ import annotations

from grainline.documents import Cluster, ModelConfig
from grainline.exhibits.figure import MUTED, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.hardware.shorthand import cluster_of
from grainline.models.catalogue import config_of
from grainline.models.count import parameters, touched_experts
from grainline.plan.tiers.collectives import Pool, ring_seconds
from grainline.plan.tiers.machine import machine_of
from grainline.plan.tiers.serving import Wanted, serve

BASE_RANKS, RANKS, LOCAL_BYTES, BASE_BYTES = 8, 4, 20e9, 144e9
BATCH, POOL_RATE, LOCAL_RATE, NVLINK = 8, 4.8e12, 4.8e12, 450e9
QWEN = "Qwen3-235B-A22B"
DENSE_BYTES = 1.74e11  # GPT-3 175B in FP8 without its embedding: 96 layers of 12 · 12,288² parameters
# Milliseconds of layers' weights a step: 8 GPUs; 4 with all of it remote; 4 with 20 of 58.75 GB resident. And the
# microseconds of an all-reduce at which either of the latter equals the first.
BY_HAND = {
    "8 GPUs, ms": 2.56,
    "4, all remote, ms": 5.12,
    "4, 20 GB resident, ms": 3.38,
    "parity, all remote, µs": 14.0,
    "parity, 20 GB resident, µs": 4.7,
    "GPT-3, 8 GPUs, ms": 4.53,
    "GPT-3, 4, all remote, ms": 9.06,
    "GPT-3, parity, µs": 24.0,
}
FLOOR_SECONDS = 9.1e-6  # 14 hops of 650 ns

MEMORY = Claim(
    name="fenghuang.memory",
    text="Local memory falls by up to 93 %: four devices with 20 GB instead of eight with 144 GB.",
    quantity="1 − local bytes of the four / of the eight",
    expected=0.93,
    margin=0.005,
    better="higher",
    baseline="8 × 144 GB",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
COLLECTIVE = Claim(
    name="fenghuang.collective",
    text="Inter-GPU communication is 16 to 70 times faster.",
    quantity="a large all-reduce of four ranks in a ring on NVLink / through the pool at 4.8 TB/s",
    expected=16.0,
    margin=0.8,
    better="higher",
    baseline="a ring at 450 GB/s in each direction",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
HALF = Claim(
    name="fenghuang.half",
    text="Half of the GPUs at kept user-visible performance.",
    quantity="TPOT of Qwen3-235B on four with a pool / on eight H200s with all-reduces of 9.1 µs, FP8, batch 8",
    expected=1.0,
    margin=0.05,
    better="lower",
    baseline="eight H200s, every rate as published; experts fetched once routed; no staging",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
HAND = Claim(
    name="fenghuang.parity",
    text="By hand, parity needs an all-reduce of ≥ 14 µs (all remote) or ≥ 4.7 µs (20 GB resident) on eight GPUs.",
    quantity="largest relative difference of eight figures from those worked out by hand",
    expected=0.0,
    margin=0.02,
    better="lower",
    baseline="the same sums, in closed form",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)


def step_bytes(config: ModelConfig, tokens: int) -> float:
    """Layers' weights in FP8 that a step of so many tokens reads, of all ranks."""
    moe, found = config.moe, parameters(config)
    assert moe is not None
    experts = config.layers * moe.experts * 3 * config.hidden_size * moe.expert_hidden
    touched = touched_experts(moe.experts, moe.top_k, tokens) / moe.experts
    return found.total - found.embedding - found.head - experts * (1 - touched)


def by_hand() -> dict[str, float]:
    """BY_HAND, computed: 20 GB resident are an even share of all tensors, and both paths are used at once."""
    config = config_of(QWEN)
    read, held = step_bytes(config, BATCH), parameters(config).total / RANKS
    eight = read / BASE_RANKS / LOCAL_RATE
    remote = read / RANKS / POOL_RATE
    resident = remote * (1 - LOCAL_BYTES / held)
    reduces, own = 2 * config.layers, 350e-9  # an all-reduce through the pool, however small
    gpt_eight, gpt_remote = DENSE_BYTES / BASE_RANKS / LOCAL_RATE, DENSE_BYTES / RANKS / POOL_RATE
    values = (
        1e3 * eight,
        1e3 * remote,
        1e3 * resident,
        1e6 * ((remote - eight) / reduces + own),
        1e6 * ((resident - eight) / reduces + own),
        1e3 * gpt_eight,
        1e3 * gpt_remote,
        1e6 * ((gpt_remote - gpt_eight) / (2 * 96) + own),
    )
    return dict(zip(BY_HAND, values, strict=True))


def rack(port: float = POOL_RATE) -> Cluster:
    """The example's cluster, with another port."""
    tables = {
        "device_types": [
            {
                "name": "xPU",
                "kind": "gpu",
                "flops_per_second": {"float8": 1979e12, "bfloat16": 989.5e12},
                "memory": [{"name": "local", "capacity_bytes": LOCAL_BYTES, "bytes_per_second": LOCAL_RATE}],
            }
        ],
        "nodes": [{"name": "rack", "devices": {"xPU": RANKS}}],
        "shared_memory": [
            {
                "name": "pool",
                "capacity_bytes": 576e9,
                "bytes_per_second": port,
                "operations": ["read", "write", "accumulate", "notify"],
                "latency_seconds": {"read": 220e-9, "write": 90e-9, "accumulate": 90e-9, "notify": 40e-9},
            }
        ],
    }
    return Cluster.parse(tables)


def measure_memory(scale: Scale) -> Measurement:
    """From the configurations alone."""
    saved = 1 - RANKS * LOCAL_BYTES / (BASE_RANKS * BASE_BYTES)
    return Measurement(saved, (saved, saved))


def measure_collective(scale: Scale) -> Measurement:
    """With both ends told: what bandwidth gives, and what latencies do."""
    pool = Pool.of(rack())
    assert pool is not None
    large = 1e12
    ratio = ring_seconds("all-reduce", RANKS, large, 2e-6, NVLINK) / pool.seconds("all-reduce", large, chunks=10**6)
    small = 14 * 650e-9 / (pool.latency_seconds("accumulate", "notify"))
    point = ring_seconds("point-to-point", 2, large, 0, NVLINK) / pool.seconds("point-to-point", large, chunks=10**6)
    scale.tell(f"large all-reduce {ratio:.2f}x, point to point {point:.2f}x; 14 hops of 650 ns / 130 ns {small:.0f}x")
    details = {"point to point": point, "14 hops of 650 ns over 130 ns": small}
    return Measurement(ratio, (ratio, ratio), None, details)


def _wanted(**keys: bool) -> Wanted:
    return Wanted(BATCH, 4096, 1024, "float8", "float8", staged=keys.get("staged", False))


def measure_half(scale: Scale) -> Measurement:
    """TPOT and TTFT, and how both move with the port's rate and with the all-reduce's time."""
    config = config_of(QWEN)
    eight = serve(
        config, machine_of(cluster_of("8xH200"), "float8", ideal=True, floor_seconds=FLOOR_SECONDS), _wanted()
    )
    ports = [3.2e12, 4.0e12, POOL_RATE, 5.6e12, 6.4e12]
    four = {port: serve(config, machine_of(rack(port), "float8", ideal=True), _wanted()) for port in ports}
    twice = serve(config, machine_of(rack(), "float8", ideal=True), _wanted(staged=True))
    one = four[POOL_RATE]
    ratio = one.tpot_seconds / eight.tpot_seconds
    rest = eight.tpot_seconds - eight.token.collective_seconds
    reduces = 2 * config.layers
    parity = {port: (found.tpot_seconds - rest) / reduces for port, found in four.items()}
    scale.tell(f"TPOT {1e3 * one.tpot_seconds:.2f} ms on four, {1e3 * eight.tpot_seconds:.2f} ms on eight")
    scale.tell(f"TTFT {1e3 * one.ttft_seconds:.0f} ms on four, {1e3 * eight.ttft_seconds:.0f} ms on eight")
    scale.tell(f"equal where a small all-reduce takes {1e6 * parity[POOL_RATE]:.1f} µs on eight")
    scale.tell(f"{1e3 * twice.tpot_seconds:.2f} ms on four where fetched bytes cross local memory twice")
    with drawing(columns=2, height=3.0) as (figure, (left, right)):
        floors = [2e-6 * i for i in range(16)]
        left.plot(
            [1e6 * f for f in floors], [1e3 * (rest + reduces * f) for f in floors], color=colour(0), label="8 × H200"
        )
        left.axhline(1e3 * one.tpot_seconds, color=colour(1), ls="--", label="4 and a pool at 4.8 TB/s")
        left.axvline(1e6 * parity[POOL_RATE], color=MUTED[0], ls=":")
        left.set(xlabel="µs of a small all-reduce on links", ylabel="ms per token", ylim=(0, None))
        left.legend()
        rates = [port / 1e12 for port in ports]
        right.plot(
            rates, [1e3 * four[port].tpot_seconds for port in ports], color=colour(1), marker="s", label="4 and a pool"
        )
        right.axhline(1e3 * eight.tpot_seconds, color=colour(0), ls="--", label="8 × H200, 9.1 µs")
        right.set(xlabel="TB/s of a port", ylim=(0, None))
        right.legend()
        picture = svg(figure, HALF.name, "Time per token against all-reduce time, and against the port's rate.")
    details = {
        "TPOT seconds": {"four": one.tpot_seconds, "eight": eight.tpot_seconds, "four, twice": twice.tpot_seconds},
        "TTFT seconds": {"four": one.ttft_seconds, "eight": eight.ttft_seconds},
        "fetched bytes of a token": one.token.fetched_bytes,
        "all-reduce seconds at parity, by port": {f"{port / 1e12:g} TB/s": value for port, value in parity.items()},
        "quoted from the report's figure, ms (baseline, FengHuang)": (0.78, 0.63),
        "stall model": "dense tensors and cache kept; experts fetched after their router, look-ahead 8 operators",
    }
    return Measurement(ratio, (ratio, ratio), picture, details)


def measure_parity(scale: Scale) -> Measurement:
    """Every figure is told."""
    found = by_hand()
    for name, value in found.items():
        scale.tell(f"{name}: {value:.3g}, by hand {BY_HAND[name]:g} ({value / BY_HAND[name] - 1:+.1%})")
    worst = max(abs(found[name] / known - 1) for name, known in BY_HAND.items())
    return Measurement(worst, (worst, worst), None, {"computed": found, "by hand": BY_HAND})


MEASURES: dict[Claim, Measure] = {
    MEMORY: measure_memory,
    COLLECTIVE: measure_collective,
    HALF: measure_half,
    HAND: measure_parity,
}
