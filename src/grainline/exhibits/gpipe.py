"""GPipe (arXiv 1811.06965): throughput and memory simulated on the paper's sizes, and a race of two real processes.

A model of L equal layers in K equal cells on K equal devices; the mini-batch is the same for all, so that a micro-batch
of M takes 1/(K·M) of it. F takes a third of F and B, and every cell runs forward again before its backward, as the
paper's do. Messages take no time: the paper's devices have fast links.

At M = 1 and M = 32 that comes near the paper's figures, at M = 4 it is far below. Equal cells without recomputation
would give K·M / (M + K − 1), 2.29 for 4 devices and 2.91 for 8, and overlapping it adds little. So the published base
has lost more than its bubble; to what, this simulation can't tell. The figures are table 2's as usually quoted.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from grainline.exhibits.figure import MARKERS, MUTED, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.gpipe_race import ALONE, PIPELINED, RANKS, WAYS, Race, run
from grainline.exhibits.harness import ratio
from grainline.exhibits.processes import need_cores
from grainline.schedule import (
    Costs,
    Kind,
    Network,
    StageCost,
    Timeline,
    add_messages,
    lower,
    make_schedule,
    simulate,
    with_recompute,
)

LAYERS = 48
DEVICES = (2, 4, 8)
# Table 2, Transformer-48 on TPUs, training throughput relative to 2 devices without micro-batches: M → by DEVICES
PAPER: dict[int, tuple[float, ...]] = {1: (1, 1.07, 1.3), 4: (1.7, 3.2, 4.8), 32: (1.8, 3.4, 6.3)}
NEAR = 0.1  # relative
SEEDS = (0, 1, 2)
MEMORY_DEVICES, MEMORY_MICROBATCHES = (1, 2, 4, 8), (1, 2, 4, 8, 16, 32)

SPEED = Claim(
    name="gpipe.speed",
    text="With 32 micro-batches 48 Transformer layers train 6.3 times as fast on 8 devices as on 2 without (table 2).",
    quantity="simulated throughput of 8 devices and 32 micro-batches / 2 devices and 1",
    expected=6.3,
    margin=0.63,
    better="higher",
    baseline="2 equal devices, 1 micro-batch, the same mini-batch",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
TABLE = Claim(
    name="gpipe.table",
    text="Throughput for 2, 4, 8 devices: M=1 1, 1.07, 1.3; M=4 1.7, 3.2, 4.8; M=32 1.8, 3.4, 6.3 (table 2).",
    quantity="of the nine figures, those that equal cells on equal devices give within 10 %",
    expected=9,
    margin=0,
    better="higher",
    baseline="2 equal devices, 1 micro-batch, the same mini-batch",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
MEMORY = Claim(
    name="gpipe.memory",
    text="With recomputation a device holds O(N + (L/K)(N/M)) of activations instead of O(N·L) (section 2.3).",
    quantity="largest simulated peak / (N + (L/K)(N/M)), over 1 to 8 devices and 1 to 32 micro-batches",
    expected=1.0,
    margin=0.001,
    better="lower",
    baseline="the closed form; the same schedule without recomputation is drawn beside it",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
REAL = Claim(
    name="gpipe.real",
    text="Micro-batches are what makes two devices faster than one: without, one waits for the other.",
    quantity="throughput of 2 processes on a core each, 8 micro-batches / one process on one core, the same batch",
    expected=1.65,  # 1.5 to 1.8; (K M) / (M + K - 1) is 1.78
    margin=0.15,
    better="higher",
    baseline="one process with the whole model, its steps in turn with theirs, in 1 or 8 parts, whichever is faster",
    seeds=SEEDS,
    how="real",
)


def step(devices: int, microbatches: int, *, recompute: bool = True) -> Timeline:
    """One step; a second is the forward of the whole model and mini-batch, a byte a layer's input of the mini-batch."""
    part = 1 / (devices * microbatches)
    inside, given = LAYERS * part, 1 / microbatches
    cost = StageCost({Kind.F: part, Kind.R: part, Kind.B: 2 * part}, kept_bytes=given + inside, input_bytes=given)
    schedule = with_recompute(make_schedule("gpipe", devices, microbatches), "always" if recompute else "never")
    return simulate(lower(add_messages(schedule), Costs(lambda stage, rank: cost), Network.ideal(devices)))


def peak(devices: int, microbatches: int, *, recompute: bool = True) -> float:
    """The most that any device holds, in inputs of a layer for the whole mini-batch."""
    return max(series.peak_bytes for series in step(devices, microbatches, recompute=recompute).memory)


def speeds() -> dict[int, tuple[float, ...]]:
    """As PAPER, simulated."""
    base = step(DEVICES[0], 1).makespan
    return {m: tuple(base / step(k, m).makespan for k in DEVICES) for m in PAPER}


def measure_speed(scale: Scale) -> Measurement:
    """The largest figure of the table, and a picture of all."""
    found = speeds()
    value = found[32][-1]
    with drawing() as (figure, (axes,)):
        for i, m in enumerate(PAPER):
            axes.plot(DEVICES, found[m], color=colour(i), marker=MARKERS[i], label=f"M = {m}")
            axes.plot(DEVICES, PAPER[m], color=colour(i), marker=MARKERS[i], mfc="none", ls=":", label="published")
        axes.set(xlabel="devices", ylabel="throughput / 2 devices, M = 1", title="Equal cells on equal devices")
        axes.set_xticks(DEVICES)
        axes.legend(ncols=len(PAPER))
        picture = svg(figure, SPEED.name, f"Throughput by devices, simulated and published. {SPEED.text}")
    return Measurement(value, (value, value), picture)


def measure_table(scale: Scale) -> Measurement:
    """All nine, with their deviation."""
    found = speeds()
    rows = {
        f"K={k}, M={m}": {
            "simulated": found[m][i],
            "paper": PAPER[m][i],
            "deviation": found[m][i] / PAPER[m][i] - 1,
            "without_recomputation": k * m / (m + k - 1),
        }
        for m in PAPER
        for i, k in enumerate(DEVICES)
    }
    for name, row in rows.items():
        scale.tell(f"{name}: {row['simulated']:.2f}, paper {row['paper']:.2f}: {row['deviation']:+.1%}")
    near = sum(abs(row["deviation"]) <= NEAR for row in rows.values())
    return Measurement(near, (near, near), None, rows)


def measure_memory(scale: Scale) -> Measurement:
    """Peaks against the closed form, over devices and micro-batches."""
    sizes = [(k, m) for k in MEMORY_DEVICES for m in MEMORY_MICROBATCHES]
    peaks = {size: peak(*size) for size in sizes}
    formula = {(k, m): 1 + LAYERS / k / m for k, m in sizes}
    worst = max(peaks[size] / formula[size] for size in sizes)
    with drawing() as (figure, (axes,)):
        for i, k in enumerate(MEMORY_DEVICES):
            held = [peaks[k, m] for m in MEMORY_MICROBATCHES]
            whole = [peak(k, m, recompute=False) for m in MEMORY_MICROBATCHES]
            axes.plot(MEMORY_MICROBATCHES, held, color=colour(i), marker=MARKERS[i], label=f"K = {k}")
            axes.plot(MEMORY_MICROBATCHES, whole, color=colour(i), ls=":", lw=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(MEMORY_MICROBATCHES, [str(m) for m in MEMORY_MICROBATCHES])
        axes.set(xlabel="micro-batches", ylabel="mini-batch inputs held", title="Dotted: without recomputation")
        axes.legend(ncols=2)
        picture = svg(figure, MEMORY.name, f"Peak activations of a device over micro-batches. {MEMORY.text}")
    details = {f"K={k}, M={m}": {"peak": peaks[k, m], "formula": formula[k, m]} for k, m in sizes}
    return Measurement(worst, (worst, worst), picture, details)


def measure_real(scale: Scale) -> Measurement:
    """Each seed starts the processes anew. No recomputation: that would be paid for by one side alone."""
    need_cores(RANKS)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for seed in scale.seeds:
        race = Race(length=scale.pick(full=256, quick=64), rounds=scale.pick(full=8, quick=2), seed=seed)
        found, losses = run(race, scale.folder)
        check_losses(losses)
        for way in WAYS:
            seconds[way] += found[way]
    alone = min(ALONE, key=lambda way: statistics.median(seconds[way]))
    speed = {way: ratio(seconds[alone], seconds[way]) for way in PIPELINED}
    for way, found_ in speed.items():
        scale.tell(f"{way}: {found_} times as fast as {alone}")
    value = speed["two, M = 8"]
    with drawing() as (figure, (axes,)):
        for i, way in enumerate(WAYS):
            axes.bar(way, 1 / statistics.median(seconds[way]), color=colour(int(way in PIPELINED)))
            axes.plot([i] * len(seconds[way]), [1 / s for s in seconds[way]], ls="", marker=".", color=MUTED[0])
        axes.grid(axis="x", visible=False)
        axes.set(ylabel="steps per second", title="One core, and two in a pipeline")
        picture = svg(figure, REAL.name, f"Steps per second of one process and of two. {REAL.text}")
    details = {"seconds": seconds, "baseline": alone, "speed": {way: e.value for way, e in speed.items()}}
    return Measurement(value.value, value.error_bar, picture, details)


def check_losses(losses: Mapping[str, float]) -> None:
    """Whether all ways came to the same loss; what they take would mean nothing otherwise."""
    if max(losses.values()) - min(losses.values()) > 1e-5 * max(losses.values()):
        raise RuntimeError(f"the ways disagree on the loss: {dict(losses)}")


MEASURES: dict[Claim, Measure] = {
    SPEED: measure_speed,
    TABLE: measure_table,
    MEMORY: measure_memory,
    REAL: measure_real,
}
