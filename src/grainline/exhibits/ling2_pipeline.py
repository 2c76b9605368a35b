"""Ling 2.0's heterogeneous fine-grained pipeline (arXiv 2510.22115, section 5), and the same cut on unlike devices:
simulated on a mixed cluster, and run on two local processes of which one is slower.

The 1T model: 80 blocks, the first 4 dense and half as costly, then MTP's block (1), MTP's logits and loss (0.7), the
head and loss (0.7), in costs of an MoE block; 21 pipeline ranks, full recomputation of blocks. The backward costs twice
the forward. Messages take no time. A replica has 189 micro-batches: 18,144 sequences over 2,016 GPUs in pipelines of
21. The 0.7 of logits is inferred from the report's 1.7 for MTP as a whole.

The stock cut deals the blocks evenly and puts MTP, head and loss on the last stage. The report's +40 % also counts that
MTP's logits aren't recomputed; both parts are told, and the cut alone where everything is recomputed, the head too.
What remains isn't explained by the cut: blocks may not cost alike, and the stock schedule may have lost elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any, NamedTuple

from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, NotRun, Scale
from grainline.exhibits.harness import ratio
from grainline.exhibits.ling2_local import CUTS, SHARE, Trial, run
from grainline.exhibits.ling2_local import RANKS as LOCAL_RANKS
from grainline.exhibits.processes import need_cores
from grainline.hardware.unequal import NotAllowed
from grainline.schedule import Costs, Kind, Network, StageCost, add_messages, lower, make_schedule, simulate
from grainline.schedule.cut import cut, described

RANKS, MICROBATCHES = 21, 189
SWEEP = (42, 84, 168, 189)
BLOCKS, DENSE = 80, 4
MTP_BLOCK, LOGITS = 1.0, 0.7
AGAIN, KEPT, BOTH = 1.0, 0.0, 2.0  # recomputation and backward, in forwards

RATES = {"A100": 312, "A10G": 70}  # TFLOP/s of bfloat16 on the data sheets
BY_RATES = (4 * RATES["A100"] + 4 * RATES["A10G"]) / (8 * RATES["A10G"])

CUT = Claim(
    name="ling2-pipeline.cut",
    text="Cutting by cells, MTP in two, is 40 % faster than uniform interleaved 1F1B: 1T on 2,016 GPUs, VPP 2.",
    quantity="simulated throughput of the cell cut, MTP's logits kept / the stock cut, logits recomputed",
    expected=1.40,
    margin=0.04,
    better="higher",
    baseline="blocks dealt evenly; MTP, head and loss on the last stage",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
STAGES = Claim(
    name="ling2-pipeline.stages",
    text="Four stages per rank are another 5 % faster than two (section 5).",
    quantity="simulated throughput of the cell cut with 4 stages per rank / with 2",
    expected=1.05,
    margin=0.005,
    better="higher",
    baseline="the cell cut with 2 stages per rank",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
MIXED = Claim(
    name="ling2-pipeline.mixed",
    text=(
        "A sparse model of 5.1B parameters on 4 A100 and 4 A10G over 25 GbE, 1F1B: an even deal leaves A100s waiting "
        f"for A10Gs; by rates on the data sheets a balanced cut is {BY_RATES:.2f} times as fast."
    ),
    quantity="simulated throughput of the cut by time and memory / the equal cut, each in its better rank order",
    expected=BY_RATES,
    margin=BY_RATES / 10,
    better="higher",
    baseline="Megatron-LM's equal cut, in the better rank order, with recomputation where memory asks for it",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
LOCAL = Claim(
    name="ling2-pipeline.local",
    text="On unlike devices a cut by what cells cost on each makes real steps faster than even blocks (section 5).",
    quantity=f"seconds of a step of 1F1B on 2 processes, one with {SHARE:.0%} of its core: equal cut / balanced cut",
    expected=1.1,
    margin=0.0,
    better="higher",
    baseline="as many blocks on each; MTP, head and loss on the last, which is the slow one; steps in turn",
    seeds=(0, 1, 2),
    how="real",
)


class Piece(NamedTuple):
    """A cell: its forward, and whether it is computed again."""

    forward: float
    again: float

    @property
    def seconds(self) -> float:
        """For a micro-batch, all passes."""
        return self.forward * (1 + BOTH + self.again)


class Recomputed(NamedTuple):
    """What is computed again besides blocks: AGAIN or KEPT."""

    logits: float  # MTP's
    head: float = KEPT


NEITHER, STOCK, ALL = Recomputed(KEPT), Recomputed(AGAIN), Recomputed(AGAIN, AGAIN)


def pieces(again: Recomputed) -> list[Piece]:
    """Embedding, dense and sparse blocks, MTP's block, its logits, head and loss."""
    blocks = [Piece(0.5, AGAIN)] * DENSE + [Piece(1.0, AGAIN)] * (BLOCKS - DENSE)
    mtp = [Piece(MTP_BLOCK, AGAIN), Piece(LOGITS, again.logits)]
    return [Piece(0.0, KEPT), *blocks, *mtp, Piece(LOGITS, again.head)]


def stock(stages: int) -> tuple[int, ...]:
    """Blocks dealt evenly, the first stages having one more where they don't go round."""
    sizes = [BLOCKS // stages + (stage < BLOCKS % stages) for stage in range(stages)]
    return (sizes[0] + 1, *sizes[1:-1], sizes[-1] + 3)


@cache
def fine(chunks: int, again: Recomputed = NEITHER) -> tuple[int, ...]:
    """The cell cut."""
    seconds = [piece.seconds for piece in pieces(again)]
    return cut([seconds] * RANKS, tuple(range(RANKS)) * chunks).cells


@cache
def makespan(sizes: tuple[int, ...], microbatches: int, again: Recomputed = NEITHER) -> float:
    """Of a step of interleaved 1F1B, in forwards of a block."""
    held, first = [], 0
    for size in sizes:
        held.append(pieces(again)[first : first + size])
        first += size
    costs = [
        StageCost(
            {Kind.F: sum(p.forward for p in stage), Kind.B: sum(p.seconds - p.forward for p in stage)},
        )
        for stage in held
    ]
    schedule = make_schedule("interleaved", RANKS, microbatches, chunks=len(sizes) // RANKS)
    graph = lower(add_messages(schedule), Costs(lambda stage, rank: costs[stage]), Network.ideal(RANKS))
    return simulate(graph).makespan


def imbalance(sizes: Sequence[int], again: Recomputed = NEITHER) -> float:
    """The busiest rank over the mean."""
    seconds = [piece.seconds for piece in pieces(again)]
    return described(sizes, [seconds] * RANKS, tuple(range(RANKS)) * (len(sizes) // RANKS)).imbalance


def gains(microbatches: int) -> dict[str, float]:
    """Throughput of the cell cut over the stock cut, whoever recomputes what."""
    even, after = stock(2 * RANKS), makespan(fine(2), microbatches)
    return {
        "cut alone": makespan(even, microbatches) / after,
        "with logits kept": makespan(even, microbatches, STOCK) / after,
        "cut alone, all recomputed": makespan(even, microbatches, ALL) / makespan(fine(2, ALL), microbatches, ALL),
    }


def measure_cut(scale: Scale) -> Measurement:
    """At the report's number of micro-batches; fewer are drawn and kept."""
    found = {m: gains(m) for m in SWEEP}
    for m, of in found.items():
        scale.tell(f"{m} micro-batches: " + ", ".join(f"{name} × {gain:.3f}" for name, gain in of.items()))
    loads = {"stock": imbalance(stock(2 * RANKS)), "cells": imbalance(fine(2))}
    scale.tell(f"busiest rank / mean: stock {loads['stock']:.3f}, cells {loads['cells']:.3f}")
    with drawing() as (figure, (axes,)):
        for i, name in enumerate(found[MICROBATCHES]):
            values = [found[m][name] for m in SWEEP]
            axes.plot(SWEEP, values, color=colour(i), marker=MARKERS[i], label=name)
        axes.axhline(1.4, color=colour(3), ls=":", lw=1, label="report")
        axes.set(ylim=(1, None), xlabel="micro-batches", ylabel="times as fast", title="Cells against even blocks")
        axes.legend()
        picture = svg(figure, CUT.name, f"Speed-up of the cell cut by micro-batches. {CUT.text}")
    value = found[MICROBATCHES]["with logits kept"]
    details = {"gain": found, "busiest_over_mean": loads, "cells": fine(2), "stock": stock(2 * RANKS)}
    return Measurement(value, (value, value), picture, details)


def measure_stages(scale: Scale) -> Measurement:
    """At the report's number of micro-batches; fewer are kept."""
    found = {m: makespan(fine(2), m) / makespan(fine(4), m) for m in SWEEP}
    for m, gain in found.items():
        scale.tell(f"{m} micro-batches: × {gain:.3f}")
    value = found[MICROBATCHES]
    return Measurement(value, (value, value), None, {"gain": found, "cells": fine(4)})


ORDERS = {"A100s first": (0, 1, 2, 3, 4, 5, 6, 7), "A10Gs first": (4, 5, 6, 7, 0, 1, 2, 3)}


def mixed_step(cut: str, order: str, recompute: str) -> dict[str, Any] | None:
    """A step of the sparse model on the mixed cluster; None where it doesn't fit."""
    from grainline.documents import GrainlineError, Plan, Recipe
    from grainline.hardware.shorthand import cluster_of
    from grainline.models.dial import config_for_depth
    from grainline.train.simulate import simulated_step

    wide = config_for_depth(64, 32_000, 4096)  # D 2,048
    assert wide.moe is not None
    config = wide.model_copy(update={"layers": 24, "moe": wide.moe.model_copy(update={"experts": 64})})
    recipe = Recipe.parse(
        {
            "model": {"config": config.tables()},
            "data": {"sequence_length": 4096, "vocab_size": 32_000},
            "training": {"steps": 1, "batch_tokens": 64 * 4096},
            "optimizer": {"kind": "adamw"},
            "learning_rate": {"peak": 1e-3},
        }
    )
    asked = {"ranks": 8, "microbatches": 64, "cut": cut, "recompute": recompute, "placement": ORDERS[order]}
    try:
        return simulated_step(Plan(), asked, recipe, cluster_of("4xA100-80 + 4xA10G@25GbE")).as_dict()
    except GrainlineError:
        return None


def measure_mixed(scale: Scale) -> Measurement:
    """Both cuts in both rank orders; recomputation only where a cut doesn't fit without."""
    found: dict[str, dict[str, Any]] = {}
    for which in ("equal", "auto"):
        for order in ORDERS:
            step = mixed_step(which, order, "never") or mixed_step(which, order, "always")
            if step is not None:
                found[f"{which}, {order}"] = step
    for name, step in found.items():
        cells = [len(rank["cells"]) for rank in step["ranks"]]
        again = "" if step["pipeline"]["recompute"] == "never" else ", recomputed"
        busy = [rank["busy_seconds"] / step["seconds"] for rank in step["ranks"]]
        shares = " ".join(f"{share:.0%}" for share in busy)
        scale.tell(f"{name}{again}: {step['seconds']:.2f} s, cells by rank {cells}, busy {shares}")
    best = {which: min(s["seconds"] for n, s in found.items() if n.startswith(which)) for which in ("equal", "auto")}
    value = best["equal"] / best["auto"]
    with drawing() as (figure, (axes,)):
        names = list(found)
        axes.barh(names, [found[name]["seconds"] for name in names], color=[colour(int("auto" in n)) for n in names])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel="seconds a step, simulated", title="5.1B on 4 A100 + 4 A10G over 25 GbE")
        picture = svg(figure, MIXED.name, f"Step times of four cuts on a mixed cluster. {MIXED.text}")
    return Measurement(value, (value, value), picture, {"steps": found})


def measure_local(scale: Scale) -> Measurement:
    """Each seed starts both processes anew, profiles them as they are, and predicts before it runs."""
    need_cores(LOCAL_RANKS)
    seconds: dict[str, list[float]] = {which: [] for which in CUTS}
    starts = []
    for seed in scale.seeds:
        trial = Trial(length=scale.pick(full=256, quick=32), rounds=scale.pick(full=6, quick=2), seed=seed)
        try:
            found = run(trial, scale.folder)
        except NotAllowed as error:
            raise NotRun(str(error)) from None
        losses = list(found.loss.values())
        if max(losses) - min(losses) > 1e-5 * max(losses):
            raise RuntimeError(f"the cuts disagree on the loss: {found.loss}")
        for which in CUTS:
            seconds[which] += found.seconds[which]
        predicted = found.predicted["equal"] / found.predicted["balanced"]
        starts.append(asdict(found) | {"seed": seed, "predicted_ratio": predicted})
        scale.tell(
            f"seed {seed}: cells {found.cells['equal']} against {found.cells['balanced']}, predicted {predicted:.2f}, "
            f"measured {ratio(found.seconds['equal'], found.seconds['balanced'])}; {found.slowed['how']}"
        )
    value = ratio(seconds["equal"], seconds["balanced"])
    with drawing() as (figure, (axes,)):
        for i, which in enumerate(CUTS):
            axes.plot([which] * len(seconds[which]), seconds[which], ls="", marker=MARKERS[0], color=colour(i))
            forecast = [start["predicted"][which] for start in starts]
            axes.plot([which] * len(forecast), forecast, ls="", marker="_", ms=30, color=colour(2), label="predicted")
        axes.set(ylim=(0, None), ylabel="seconds a step", title=f"Two processes, one with {SHARE:.0%} of its core")
        axes.set_xlim(-0.5, 1.5)
        axes.legend(*([of[:1] for of in axes.get_legend_handles_labels()]))
        picture = svg(figure, LOCAL.name, f"Step times of both cuts, measured and predicted. {LOCAL.text}")
    return Measurement(value.value, value.error_bar, picture, {"starts": starts})


MEASURES: dict[Claim, Measure] = {
    CUT: measure_cut,
    STAGES: measure_stages,
    MIXED: measure_mixed,
    LOCAL: measure_local,
}
