"""How long a person waits before grainline does anything: `import grainline`, `grainline --help`, a verb's help.

Medians over whole processes, beside an empty Python's, and as shares of the budget: 0.3 s for the import and 0.5 s for
help. The exit code is 1 when a budget is overrun.

    python benchmarks/bench_startup.py [--repeats 15]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from grainline.hardware import processor

RESULT = Path(__file__).parent / "results" / "startup.json"
EMPTY = "an empty Python"
CASES: dict[str, tuple[list[str], float | None]] = {  # what → (Python's arguments, budget in seconds)
    EMPTY: (["-c", "pass"], None),
    "import grainline": (["-c", "import grainline"], 0.3),
    "grainline --help": (["-m", "grainline", "--help"], 0.5),
    "a verb's --help": (["-m", "grainline", "doctor", "--help"], 0.5),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=15, help="processes per case; at least 5")
    repeats = max(5, parser.parse_args().repeats)
    seconds = measure(repeats)
    empty = statistics.median(seconds[EMPTY])
    rows = []
    for what, (_, budget) in CASES.items():
        median = statistics.median(seconds[what])
        rows.append(
            {
                "what": what,
                "median_seconds": median,
                "fastest_seconds": min(seconds[what]),
                "slowest_seconds": max(seconds[what]),
                "times_an_empty_python": median / empty,
                "budget_seconds": budget,
                "share_of_budget": None if budget is None else median / budget,
            }
        )
        share = "" if budget is None else f"{median / budget:7.2f} of its {budget} s"
        print(f"{what:18}{median * 1e3:7.0f} ms {median / empty:7.2f} × an empty Python {share}")
    RESULT.parent.mkdir(exist_ok=True)
    machine = {"python": platform.python_version(), "system": platform.system(), "cpu": processor.name()}
    RESULT.write_text(json.dumps({"repeats": repeats, "machine": machine, "results": rows}, indent=2) + "\n")
    return int(any(row["share_of_budget"] is not None and row["share_of_budget"] > 1 for row in rows))


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of each process; the cases take turns, so that a busy moment doesn't fall on one of them alone."""
    seconds: dict[str, list[float]] = {what: [] for what in CASES}
    for turn in range(repeats + 1):
        for what, (arguments, _) in CASES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if turn > 0:  # the first fills the disk's cache
                seconds[what].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
