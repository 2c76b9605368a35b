"""FlashMoE (arXiv 2506.04667): a whole MoE layer as one queue of tasks, against phases with a barrier after each.

Simulated as 8 H100 with 700 TFLOP/s and 300 GB/s reached, all in 16 bits: 16,384 tokens a rank, top-2, D = F = 2048,
tiles of 128 × 64. One of 132 workers is the paper's scheduler block. A launch takes 6 µs. Sums of results read and
write memory at 3.35 TB/s. The published figures of whole systems hold fp32 against 16-bit baselines and aren't claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from grainline._figure import MUTED
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import estimate
from grainline.schedule.overlap import ExpertLayer, Options, TileDevice, TileShape, fused, serial, simulate_tiles
from grainline.schedule.overlap.capacity import cell_rows, heap_bytes, kept_rows

RANKS, TOKENS, TOP_K, SIZE = 8, 16384, 2, 2048
TILE = TileShape(128, 64)
H100 = TileDevice(132, 700e12, 300e9, memory_bytes_per_second=3.35e12, launch_seconds=6e-6)
PROCESSORS = replace(
    H100, workers=131, flops_per_second=700e12 * 131 / 132, memory_bytes_per_second=3.35e12 * 131 / 132
)
LAUNCHES = {"overlap alone": 0, "33 launches (COMET)": 33, "85 (Megatron)": 85, "261 (Megatron-TE)": 261}
EXPERTS = (8, 16, 32, 64, 128)
HEAPS = {
    "Moonlight": (8192, 64, 2048, 0.25),
    "Grok-1": (8192, 8, 6144, 0.75),
    "Arctic": (4096, 128, 7168, 1.75),
    "Qwen3-235B": (40960, 128, 4096, 3.0),
    "Mixtral": (32768, 8, 4096, 2.0),
}
"""Context length, experts, width, and GiB in the paper's table."""
ZIPF = {0.0: 1.00, 0.25: 1.11, 0.5: 1.26, 1.0: 1.88}
"""Exponent → padded / real bytes."""

ALONE = Claim(
    name="flashmoe.overlap",
    text="With no launches counted, one queue is 2.0 times as fast as phases: 64 experts on 8 H100, by compute 0.79 ms "
    "and 0.39 ms for each exchange.",
    quantity="simulated seconds of phases without launches / of one queue",
    expected=2.0,
    margin=0.2,
    better="higher",
    baseline="dispatch, products, return and sums one after another, same tiles and rates",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
FLAT = Claim(
    name="flashmoe.flat",
    text="From 8 to 128 experts the layer's time stays flat, 16,384 tokens (figure 14).",
    quantity="largest / smallest simulated seconds of one queue, 8 to 128 experts on 8 ranks",
    expected=1.0,
    margin=0.05,
    better="lower",
    baseline="the same layer in phases, with 33 launches and as many more as experts grow, drawn beside it",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
HEAP = Claim(
    name="flashmoe.heap",
    text="The symmetric heap takes 0.25, 0.75, 1.75, 3.0 and 2.0 GB for five models in fp32 (appendix's table).",
    quantity="largest |GiB by 4·C·E·D − the table's| of the five",
    expected=0.0,
    margin=0.0,
    better="lower",
    baseline="the paper's table; its DeepSeek row (1.5) can't be had from the formula, which gives 17.5",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
PAYLOAD = Claim(
    name="flashmoe.payload",
    text="Padded to a capacity factor of 1, 1.00, 1.11, 1.26 and 1.88 times the real bytes travel for Zipf 0, ¼, ½, 1.",
    quantity="largest |padded rows / kept rows − those| of the four; 64 experts, 32,768 rows drawn",
    expected=0.0,
    margin=0.03,
    better="lower",
    baseline="rows that find a slot, which are all that FlashMoE sends",
    seeds=tuple(range(8)),
    how="simulated",
    quick_seeds=tuple(range(8)),
    quick_decides=True,
)


def balanced(experts: int) -> ExpertLayer:
    """One rank's part of a layer of so many experts."""
    rows = TOKENS * TOP_K // experts
    return ExpertLayer(((rows,) * (experts // RANKS),) * RANKS, SIZE, SIZE)


@cache
def queue_seconds(experts: int) -> float:
    """Of one queue."""
    return simulate_tiles(fused(balanced(experts), Options(TILE)), PROCESSORS).makespan + H100.launch_seconds


@cache
def phase_seconds(experts: int, launches: int) -> float:
    """Of phases."""
    return simulate_tiles(serial(balanced(experts), Options(TILE, launches=launches)), H100).makespan


def measure_alone(scale: Scale) -> Measurement:
    """And with the launches of systems, as details."""
    one = queue_seconds(64) - H100.launch_seconds
    times = {name: phase_seconds(64, launches) for name, launches in LAUNCHES.items()}
    found = times["overlap alone"] / one
    with drawing() as (figure, (axes,)):
        bars = axes.barh(range(len(times) + 1), [1e3 * s for s in (one, *times.values())], color=colour(0))
        axes.bar_label(bars, ["", *(f"× {s / one:.2f}" for s in times.values())], fontsize=8, padding=3)
        axes.set_yticks(range(len(times) + 1), ["one queue", *(f"phases, {name}" for name in times)])
        axes.set(xlabel="ms", title="A layer of 64 experts on 8 H100, simulated")
        picture = svg(figure, ALONE.name, f"Time of one layer. {ALONE.quantity}.")
    ratios = {name: s / one for name, s in times.items()}
    return Measurement(found, (found, found), picture, {"queue_seconds": one, "phases_over_queue": ratios})


def measure_flat(scale: Scale) -> Measurement:
    """Rows stay, and so do tiles while each (source, expert) has whole ones."""
    queue = {experts: queue_seconds(experts) for experts in EXPERTS}
    phases = {experts: phase_seconds(experts, 33 * experts // EXPERTS[0]) for experts in EXPERTS}
    found = max(queue.values()) / min(queue.values())
    with drawing() as (figure, (axes,)):
        for i, (name, times) in enumerate({"one queue": queue, "phases, launches with experts": phases}.items()):
            axes.plot(EXPERTS, [1e3 * s for s in times.values()], color=colour(i), marker=MARKERS[i], label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(EXPERTS, [str(experts) for experts in EXPERTS])
        axes.set_ylim(bottom=0)
        axes.set(xlabel="experts", ylabel="ms", title="16,384 tokens a rank on 8 H100, simulated")
        axes.legend()
        picture = svg(figure, FLAT.name, f"Time of one layer by number of experts. {FLAT.quantity}.")
    return Measurement(found, (found, found), picture, {"queue": queue, "phases": phases})


def measure_heap(scale: Scale) -> Measurement:
    """The formula's bytes."""
    gibibytes = {
        name: heap_bytes(cell_rows(tokens, experts), experts, width, 4) / 2**30
        for name, (tokens, experts, width, _) in HEAPS.items()
    }
    worst = max(abs(gibibytes[name] - HEAPS[name][3]) for name in HEAPS)
    return Measurement(worst, (worst, worst), None, {"gibibytes": gibibytes})


def padded_over_kept(rows_E: Sequence[int]) -> float:
    """Rows of full cells for each that finds a slot, at a capacity factor of 1."""
    capacity = sum(rows_E) // len(rows_E)
    return capacity * len(rows_E) / kept_rows(rows_E, capacity)


def measure_payload(scale: Scale) -> Measurement:
    """Counts drawn from Zipf's shares over 64 experts."""
    found: dict[float, list[float]] = {exponent: [] for exponent in ZIPF}
    for seed in scale.seeds:
        draw = np.random.default_rng(seed)
        for exponent in ZIPF:
            share_E = np.arange(1, 65.0) ** -exponent
            found[exponent].append(padded_over_kept(draw.multinomial(TOKENS * TOP_K, share_E / share_E.sum()).tolist()))
    worst = estimate([max(abs(found[e][i] - ZIPF[e]) for e in ZIPF) for i in range(len(scale.seeds))])
    with drawing() as (figure, (axes,)):
        axes.plot(list(ZIPF), list(ZIPF.values()), color=MUTED[0], ls=":", label="expected")
        axes.plot(list(ZIPF), [estimate(v).value for v in found.values()], "o", color=colour(0), label="drawn")
        axes.set(xlabel="Zipf's exponent", ylabel="padded / real bytes", title="What equal buffers send, of 64 experts")
        axes.legend()
        picture = svg(figure, PAYLOAD.name, f"Padding by skew. {PAYLOAD.quantity}.")
    return Measurement(worst.value, worst.error_bar, picture, {"padded_over_kept": found})


MEASURES: dict[Claim, Measure] = {
    ALONE: measure_alone,
    FLAT: measure_flat,
    HEAP: measure_heap,
    PAYLOAD: measure_payload,
}
