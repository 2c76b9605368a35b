"""How many tasks a second the simulator plays, and what building a large step takes before it can.

A step of a thousand ranks and 128 micro-batches with messages over ports: its list, its messages, its task graph, and
the simulation. Then the two engines, the compiled and the Python one, on the same graphs, in turn: small enough for
both. Medians over repetitions, in processor time (all of it is one thread's, so on a machine with nothing else to do
that is the time one waits). The budgets are 10 s for all of the large step together, and a million tasks a second; the
exit code is 1 when one is overrun.

    python benchmarks/bench_simulator.py [--ranks 1024] [--microbatches 128] [--schedule 1f1b] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from grainline.hardware import processor
from grainline.schedule import Network, TaskGraph, add_messages, equal_costs, lower, make_schedule, perturb, simulate
from grainline.schedule.simulator.engine import is_compiled, play_compiled, play_python

RESULT = Path(__file__).parent / "results" / "simulator.json"
BUDGET_SECONDS = 10.0
BUDGET_TASKS_PER_SECOND = 1e6
FORWARD_SECONDS = 1.0
# Seconds that a message takes alone on its port: little, and as much as a forward, so that ports are always shared.
MESSAGE_SECONDS = {"fast links": 0.01, "slow links": 1.0}
SMALL = (64, 32)  # ranks and micro-batches, for the Python engine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--microbatches", type=int, default=128)
    parser.add_argument("--schedule", default="1f1b")
    parser.add_argument("--repeats", type=int, default=5, help="at least 3")
    arguments = parser.parse_args()
    repeats = max(3, arguments.repeats)
    if not is_compiled():
        print("the compiled core isn't built: grainline doctor says how to mend that", file=sys.stderr)
        return 1

    steps, graph = whole_step(arguments.schedule, arguments.ranks, arguments.microbatches, repeats)
    total = statistics.median(map(sum, zip(*steps.values(), strict=True)))
    print(
        f"{arguments.schedule}, {arguments.ranks} ranks, {arguments.microbatches} micro-batches: {len(graph):,} tasks"
    )
    for what, seconds in steps.items():
        print(f"  {what:14}{statistics.median(seconds):7.2f} s")
    print(f"  {'in all':14}{total:7.2f} s {total / BUDGET_SECONDS:7.2f} of its {BUDGET_SECONDS:.0f} s")

    rates = []
    for links, message_seconds in MESSAGE_SECONDS.items():
        large = step(arguments.schedule, arguments.ranks, arguments.microbatches, message_seconds)
        small = step(arguments.schedule, *SMALL, message_seconds)
        rates.append(
            {
                "links": links,
                "compiled": rate(play_compiled, large, repeats),
                "compiled_on_small": rate(play_compiled, small, repeats),
                "python_on_small": rate(play_python, small, repeats),
            }
        )
        for engine, found in list(rates[-1].items())[1:]:
            print(f"{links:12}{engine:20}{found:12,.0f} tasks/s")
    RESULT.parent.mkdir(exist_ok=True)
    result = {
        "machine": {"python": platform.python_version(), "system": platform.system(), "cpu": processor.name()},
        "schedule": arguments.schedule,
        "ranks": arguments.ranks,
        "microbatches": arguments.microbatches,
        "tasks": len(graph),
        "repeats": repeats,
        "step_seconds": {what: statistics.median(seconds) for what, seconds in steps.items()},
        "in_all_seconds": total,
        "tasks_per_second": rates,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    slow = any(float(row["compiled"]) < BUDGET_TASKS_PER_SECOND for row in rates)
    return int(total > BUDGET_SECONDS or slow)


def whole_step(name: str, ranks: int, microbatches: int, repeats: int) -> tuple[dict[str, list[float]], TaskGraph]:
    """Seconds of each part of building and simulating a step, and its graph."""
    seconds: dict[str, list[float]] = {"make_schedule": [], "add_messages": [], "lower": [], "simulate": []}
    for _ in range(repeats):
        at = [time.process_time()]
        schedule = make_schedule(name, ranks, microbatches)
        at.append(time.process_time())
        schedule = add_messages(schedule)
        at.append(time.process_time())
        graph = lower(schedule, equal_costs(FORWARD_SECONDS, kept_bytes=1e9, output_bytes=1e7), ports(ranks))
        at.append(time.process_time())
        simulate(graph)
        at.append(time.process_time())
        for what, begin, end in zip(seconds, at[:-1], at[1:], strict=True):
            seconds[what].append(end - begin)
    return seconds, graph


def step(name: str, ranks: int, microbatches: int, message_seconds: float) -> TaskGraph:
    """Jittered, so that few tasks end at the same instant."""
    costs = equal_costs(FORWARD_SECONDS, kept_bytes=1e9, output_bytes=1e9 * message_seconds)
    graph = lower(add_messages(make_schedule(name, ranks, microbatches)), costs, ports(ranks))
    return perturb(graph, seed=0, jitter=0.1)


def ports(ranks: int) -> Network:
    """A gigabyte a second each way, 10 µs."""
    return Network.uniform(ranks, latency_seconds=1e-5, bytes_per_second=1e9)


def rate(engine: Callable[[TaskGraph], object], graph: TaskGraph, repeats: int) -> float:
    """Tasks per second, the median."""
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        engine(graph)
        seconds.append(time.process_time() - begin)
    return len(graph) / statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(main())
