"""How many layouts a second are evaluated, time and memory both: a trillion parameters on 1,024 devices.

    python benchmarks/bench_planner.py [--seconds 60] [--save]

The public planner Calculon evaluates about 260 a second on one core. No layout is pruned: each that divides model,
batch and cluster is evaluated.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from grainline.exhibits.keep import machine
from grainline.hardware.shorthand import cluster_of
from grainline.models.catalogue import config_of
from grainline.plan.layouts import SEARCHES, Budget
from grainline.plan.layouts.engine import ENGINES
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.played import refine
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.shape import Shape
from grainline.plan.layouts.space import OPEN

CASES = (("Kimi-K2", "128x(8xH100)@NDR"), ("Ling-1T", "64x(8xH100)@NDR + 64x(8xA100-80)@HDR"))


def main() -> None:
    """Print one row per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results")
    arguments = parser.parse_args()
    rows = [measure(model, cluster, arguments.seconds) for model, cluster in CASES]
    for row in rows:
        print(
            f"{row['model']} on {row['cluster']}: {row['evaluated']:,} layouts in {row['seconds']:.1f} s, "
            f"{row['per_second']:,.0f} a second; fleet read in {row['fleet_seconds']:.2f} s, ten best played in "
            f"{row['played_seconds']:.2f} s; best {row['best']} at {row['step_seconds']:.2f} s"
        )
    if arguments.save:
        path = Path(__file__).parent / "results" / "planner.json"
        path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


def measure(model: str, cluster: str, seconds: float) -> dict[str, object]:
    """One exhaustive search, ended when its time is over."""
    began = time.perf_counter()
    fleet = Fleet.of(cluster_of(cluster))
    read = time.perf_counter() - began
    problem = Problem(Shape.of(config_of(model)), fleet, ENGINES["megatron"], 4096, 4096)
    began = time.perf_counter()
    found = SEARCHES["exhaustive"](problem, OPEN, Budget(seconds))
    took = time.perf_counter() - began
    began = time.perf_counter()
    best = refine(problem, found)[0]
    return {
        "model": model,
        "cluster": cluster,
        "evaluated": found.evaluated,
        "complete": found.complete,
        "seconds": took,
        "per_second": found.evaluated / took,
        "fleet_seconds": read,
        "played_seconds": time.perf_counter() - began,
        "best": str(best.ranked.estimate.strategy),
        "step_seconds": best.seconds,
    }


if __name__ == "__main__":
    main()
