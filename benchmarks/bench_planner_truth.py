"""How near the planner's closed forms come to published runs: steps, and memory of activations.

Two constants are fitted, what matrix products and memory reach of an A100's data sheet (`pace.Reach`), and to nothing
but the ten rows of PTD-P's table 1 (arXiv 2104.04473). They are then held against what they never saw: the eight rows
of table 5 of arXiv 2205.05198 (22B to 1T parameters, all activations computed again or attention's alone), and that
paper's figures 1 and 7 for activations; those rows are what Calculon (arXiv 2306.03294) validates itself on, and with
--calculon it runs beside. And four runs with experts on H100 (arXiv 2504.14960, table 1), by their share of the peak.

    python benchmarks/bench_planner_truth.py [--calculon FOLDER] [--calculon-python PYTHON]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

from grainline.exhibits.megatron_ptdp import TABLE_1
from grainline.hardware.shorthand import cluster_of
from grainline.plan.layouts.engine import ENGINES
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.memory import in_flight, kept
from grainline.plan.layouts.pace import Reach
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.shape import Experts, Shape
from grainline.plan.layouts.step import Estimate, evaluate
from grainline.plan.layouts.strategy import Recompute, Strategy
from grainline.plan.layouts.work import Load

RESULT = Path(__file__).parent / "results" / "planner_truth.json"
LENGTH, VOCABULARY = 2048, 51_200
BUDGET = {"time mean": 0.037, "time worst": 0.089, "activations mean": 0.021}  # what Calculon reports of itself


FOLDING = {  # experts, chosen, hidden → (t, e, et), per cent of the peak; arXiv 2504.14960, 128 H100, p = 8
    (8, 2, 16384): {(2, 4, 2): 46.3, (2, 8, 1): 49.3},
    (64, 8, 2048): {(2, 8, 2): 17.1, (4, 8, 1): 28.8},
}


class Model(NamedTuple):
    """Of arXiv 2205.05198, table 3: sizes, and how it was spread."""

    layers: int
    hidden: int
    heads: int
    tensor: int
    pipeline: int
    chunks: int
    batch: int
    sequences: int


MODELS = {
    "22B": Model(48, 6144, 64, 8, 1, 1, 4, 4),
    "175B": Model(96, 12288, 96, 8, 8, 3, 64, 1),
    "530B": Model(105, 20480, 128, 8, 35, 3, 280, 1),
    "1T": Model(128, 25600, 160, 8, 64, 1, 512, 1),
}
WAYS: dict[str, tuple[Recompute, bool]] = {  # what is computed again, and whether sequences are split
    "none": ("none", False),
    "seq": ("none", True),
    "sel": ("attention", False),
    "seqsel": ("attention", True),
    "full": ("full", False),
}
TABLE_5 = {  # seconds of a step, measured
    ("22B", "full"): 1.42,
    ("22B", "seqsel"): 1.10,
    ("175B", "full"): 18.13,
    ("175B", "seqsel"): 13.75,
    ("530B", "full"): 49.05,
    ("530B", "seqsel"): 37.83,
    ("1T", "full"): 94.42,
    ("1T", "seqsel"): 71.49,
}
FIGURE_1 = {  # GiB of activations, as Calculon reads the figure
    ("22B", "none"): 59.25,
    ("22B", "seqsel"): 9.5625,
    ("175B", "none"): 66.84375,
    ("175B", "seqsel"): 12.3515625,
    ("530B", "none"): 114.0234375,
    ("530B", "seqsel"): 23.076171875,
    ("1T", "none"): 131.25,
    ("1T", "seqsel"): 26.5625,
}
FIGURE_7 = {  # per cent of the activations without any of it
    "22B": {"seq": 66.84, "sel": 49.42, "seqsel": 16.18, "full": 7.64},
    "175B": {"seq": 62.04, "sel": 56.53, "seqsel": 18.49, "full": 8.71},
    "530B": {"seq": 58.31, "sel": 62.04, "seqsel": 20.27, "full": 9.42},
    "1T": {"seq": 58.31, "sel": 62.04, "seqsel": 20.27, "full": 9.42},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--calculon", type=Path, help="a checkout of calculon-ai/calculon")
    parser.add_argument("--calculon-python", default=sys.executable, help="an interpreter with pandas and psutil")
    arguments = parser.parse_args()
    reach = fit()
    rows = [row(f"PTD-P {size}", estimate.step_seconds, real) for size, estimate, real in published(reach)]
    print(f"fitted to PTD-P's table 1: products {reach.products:.3f}, memory {reach.memory:.3f} of the data sheet")
    told("seen: PTD-P, table 1", rows)
    times, inside = [], 0
    for (name, way), real in TABLE_5.items():
        estimate = evaluate(*planned(name, way))
        low, high = estimate.interval
        inside += low <= real <= high
        times.append(row(f"{name} {way}", estimate.step_seconds, real) | {"interval": [low, high]})
    told("unseen: arXiv 2205.05198, table 5, seconds", times)
    print(f"  {inside} of {len(times)} inside the intervals that are to hold nine in ten")
    figure_1 = [row(f"{n} {w}", activations(n, w) / 2**30, real) for (n, w), real in FIGURE_1.items()]
    told("figure 1, GiB of activations", figure_1)
    figure_7 = [
        row(f"{n} {w}", 100 * activations(n, w) / activations(n, "none"), real)
        for n, ways in FIGURE_7.items()
        for w, real in ways.items()
    ]
    told("figure 7, per cent of all activations", figure_7)
    folded = [
        row(f"E{experts[0]} t{t} e{e} et{et}", folding(experts, (t, e, et)), real)
        for experts, ways in FOLDING.items()
        for (t, e, et), real in ways.items()
    ]
    told("unseen: arXiv 2504.14960, experts on H100, per cent of the peak (chunks aren't published: one)", folded)
    result: dict[str, Any] = {
        "folding": folded,
        "fitted": {"products": reach.products, "memory": reach.memory, "rows": rows},
        "used": {"products": Reach().products, "memory": Reach().memory},
        "table 5": times,
        "inside the interval": inside,
        "figure 1": figure_1,
        "figure 7": figure_7,
    }
    if arguments.calculon:
        result["calculon"] = calculon(arguments.calculon, arguments.calculon_python)
        print("Calculon on the same rows:", json.dumps(result["calculon"]))
    reached = {
        "time mean": mean(abs(r["error"]) for r in times),
        "time worst": max(abs(r["error"]) for r in times),
        "activations mean": mean(abs(r["error"]) for r in figure_1),
    }
    result |= {"reached": reached, "budget": BUDGET}
    for what, value in reached.items():
        print(f"{what}: {value:.2%}, {value / BUDGET[what]:.2f} of Calculon's {BUDGET[what]:.1%}")
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(reached[what] >= BUDGET[what] for what in BUDGET))


def row(name: str, predicted: float, real: float) -> dict[str, Any]:
    """One line of a table."""
    return {"row": name, "predicted": predicted, "real": real, "error": predicted / real - 1}


def told(title: str, rows: list[dict[str, Any]]) -> None:
    """A table, for people."""
    print(
        f"{title}: {mean(abs(r['error']) for r in rows):.2%} off on average, {max(abs(r['error']) for r in rows):.2%}"
    )
    for r in rows:
        print(f"  {r['row']:14}{r['predicted']:10.2f}{r['real']:10.2f}{r['error']:+9.1%}")


@cache
def fleet(gpus: int) -> Fleet:
    """DGX A100 servers, an HDR NIC for each GPU."""
    return Fleet.of(cluster_of(f"{gpus // 8}x(8xA100-80)@HDR" if gpus > 8 else "8xA100-80"))


def fit() -> Reach:
    """The two shares that make the mean square of table 1's relative errors least, on a grid made finer twice."""
    best, steps = (0.8, 0.8), (0.05, 0.1)
    for _ in range(4):
        grid = [[c + i * step for i in range(-3, 4)] for c, step in zip(best, steps, strict=True)]
        pairs = [(p, m) for p, m in product(*grid) if 0 < p <= 1 and 0 < m <= 1]
        best = min(pairs, key=lambda pair: _square(Reach(products=pair[0], memory=pair[1])))
        steps = steps[0] / 3, steps[1] / 3
    return Reach(products=best[0], memory=best[1])


def _square(reach: Reach) -> float:
    return mean(math.log(estimate.step_seconds / real) ** 2 for _, estimate, real in published(reach))


def published(reach: Reach) -> list[tuple[str, Estimate, float]]:
    """PTD-P's rows: size, estimate, seconds by its throughput and the FLOPs that it counts (equation 3)."""
    found = []
    for size, run, tera in TABLE_1:
        shape = Shape.gpt(run.gpt.layers, run.gpt.hidden, run.heads, VOCABULARY)
        problem = Problem(shape, fleet(run.gpus), ENGINES["megatron-2021"], run.batch, LENGTH, reach=reach)
        strategy = Strategy(
            tensor=run.tensor,
            pipeline=run.pipeline,
            data=run.data,
            chunks=run.chunks,
            sequences=run.sequences,
            schedule="interleaved" if run.chunks > 1 else "1f1b",
            recompute="full",
            sequence_parallel=False,
        )
        seconds = run.gpt.flops(run.batch) / (run.gpus * tera * 1e12)
        found.append((size, evaluate(problem, strategy), seconds))
    return found


def planned(name: str, way: str) -> tuple[Problem, Strategy]:
    """A row of arXiv 2205.05198."""
    model, (recompute, split) = MODELS[name], WAYS[way]
    shape = Shape.gpt(model.layers, model.hidden, model.heads, VOCABULARY)
    devices = fleet(model.tensor * model.pipeline)
    strategy = Strategy(
        tensor=model.tensor,
        pipeline=model.pipeline,
        chunks=model.chunks,
        sequences=model.sequences,
        schedule="interleaved" if model.chunks > 1 else "1f1b",
        recompute=recompute,
        sequence_parallel=split,
    )
    return Problem(shape, devices, ENGINES["megatron-2022"], model.batch, LENGTH), strategy


def activations(name: str, way: str) -> float:
    """Bytes that the first pipeline rank keeps for backwards of its blocks.

    The paper's figures are of blocks alone; the planner also counts the mask of the embedding's dropout.
    """
    problem, strategy = planned(name, way)
    masks = kept(problem, strategy)[problem.kinds.index("embedding")]
    waiting = in_flight(strategy, np.arange(strategy.pipeline), strategy.microbatches(problem.batch_sequences))[0]
    return float(evaluate(problem, strategy).memory[0].activations - masks * waiting)


def folding(experts: tuple[int, int, int], way: tuple[int, int, int]) -> float:
    """Model FLOPs over the peak's, in per cent, of Mixtral 8x22B or its fine-grained kin; a capacity of 1 is even."""
    count, chosen, inner = experts
    t, e, et = way
    h, heads, kv, layers, batch, length, gpus = 6144, 48, 8, 56, 256, 4096, 128
    size = h // heads
    shape = Shape(
        layers=layers,
        hidden=h,
        vocabulary=32_768,
        heads=heads,
        query_width=h,
        key_width=kv * size,
        value_width=kv * size,
        mixed_width=h,
        attention_matrices=2 * h * size * (heads + kv),
        low=(),
        into=((h, size * (heads + 2 * kv)),),
        score_flops=4.0 * h,
        ffn_hidden=inner,
        experts=Experts(count, chosen, inner, choices=count),
        sparse_layers=frozenset(range(layers)),
        key_heads=kv,
    )
    devices = Fleet.of(cluster_of("16x(8xH100)@NDR"))
    problem = Problem(shape, devices, ENGINES["megatron"], batch, length, imbalance=Load())
    strategy = Strategy(
        tensor=t, pipeline=8, data=gpus // 8 // t, expert=e, expert_tensor=et, schedule="1f1b", shard="optimizer"
    )
    active = layers * (shape.attention_matrices + 3 * h * inner * chosen) + shape.table_parameters
    flops = batch * length * (6 * active + 3 * layers * shape.score_flops * length / 2)
    peak = devices.types[0].flops_per_second["bfloat16"]
    return 100 * flops / (evaluate(problem, strategy).step_seconds * gpus * peak)


def calculon(folder: Path, python: str) -> dict[str, Any]:
    """Its own validation, as it prints it: errors in per cent, of steps and of activations."""
    command = [python, str(folder / "bin" / "calculon"), "llm-validation", "-b", str(folder)]
    env = os.environ | {"PYTHONPATH": str(folder)}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd=folder).stdout
    tables = re.split(r"\n(?=\*|End-to-end|Activations,\|)", printed)
    names = {"*Activations": "figure 1", "Activations": "figure 7", "End-to-end": "table 5"}
    found: dict[str, Any] = {}
    for table in tables:
        name = names.get(table.partition(",")[0].strip())
        if name:
            found[name] = {
                "mean": float(_after("Ave", table)) / 100,
                "worst": float(_after("Max", table)) / 100,
                "rows": re.findall(r"^(?:megatron|gpt3|turing).*$", table, re.MULTILINE),
            }
    return found


def _after(word: str, table: str) -> str:
    found = re.search(rf"{word},,([\d.]+)%", table)
    assert found, f"Calculon printed no {word}"
    return found.group(1)


if __name__ == "__main__":
    sys.exit(main())
