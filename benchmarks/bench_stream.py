"""STREAM by one generic source beside native C with OpenMP: every policy, kernel and kind of store, in turns.

Arrays are four times as large as the last-level caches unless --elements says otherwise. The ratio is of the best of
ten repetitions over the same memory, and its error bar over rounds with processes and memory of their own.

    python benchmarks/bench_stream.py [--rounds 6] [--elements N] [--policies par_simd seq]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

from grainline.exhibits.frame import NotRun
from grainline.exhibits.harness import estimate
from grainline.exhibits.stream_race import DOUBLE, SIDES, Race, both_stores, race
from grainline.hardware import look
from grainline.hardware.caches import caches, last_level_bytes, memory_bytes_needed
from grainline.kernels.stream import POLICIES
from grainline.kernels.stream.native import Policy
from grainline.kernels.targets import cpu_targets

RESULT = Path(__file__).parent / "results" / "stream.json"
REPETITIONS = 10


def rows(policy: Policy, races: list[Race]) -> list[dict[str, object]]:
    """A row for each store and kernel."""
    found: list[dict[str, object]] = []
    for store, kernel in races[0].ours:
        ratio = estimate([one.ratios[store, kernel] for one in races])
        best = {who: max(one.bytes_per_second(who)[store, kernel] for one in races) for who in SIDES}
        found.append(
            {
                "policy": policy,
                "store": store,
                "kernel": kernel,
                "threads": races[0].threads,
                "bytes_per_second": best,
                "ratio": ratio.value,
                "ratio_error_bar": ratio.error_bar,
            }
        )
        rates = f"{best['ours'] / 1e9:7.2f} GB/s, native {best['native'] / 1e9:7.2f}"
        print(f"{policy:9}{store:10}{kernel:6}{rates}: {ratio}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--elements", type=int, default=memory_bytes_needed(last_level_bytes(caches())) // DOUBLE)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=POLICIES)
    arguments = parser.parse_args()
    machine = look(measure=False)
    target = cpu_targets(machine.threads)[0]
    needed, free = 3 * DOUBLE * arguments.elements, machine.memory_available_bytes
    if needed > free:
        raise SystemExit(f"three arrays of {arguments.elements} doubles need {needed:,} bytes, and {free:,} are free")
    results = []
    with tempfile.TemporaryDirectory(prefix="grainline-stream-") as folder:
        for policy in arguments.policies:
            seeds = range(arguments.rounds)
            try:
                races = [
                    race(policy, both_stores(policy), target, arguments.elements, REPETITIONS, seed, Path(folder))
                    for seed in seeds
                ]
            except NotRun as reason:
                raise SystemExit(str(reason)) from None
            results += rows(policy, races)
    about = {"python": platform.python_version(), "cpu": machine.cpu}
    table = {"machine": about, "elements": arguments.elements, "repetitions": REPETITIONS, "results": results}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
