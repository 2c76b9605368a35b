"""What unequal hardware on one machine comes to: shares of a core, links and relays, wanted against measured.

A share: pieces of work of about 10 ms of CPU time, one after another and after idling, and for each its wall time over
its CPU time, which should be 1/share. (Its time without the rule is no measure: that moves with whatever else runs.)
What other programs took of the core meanwhile is counted; above 5 % the case is tried again a little later, up to 20
times, and nothing is kept of a machine that was disturbed to the end. Links and relays measure themselves.

    python benchmarks/bench_unequal.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from grainline.hardware import processor
from grainline.hardware.unequal import cpu_seconds, not_allowed, pin, relay, shaped_link, slowed

RESULT = Path(__file__).parent / "results" / "unequal.json"
RULES = (("duty cycle", 0.01), ("duty cycle", 0.005), ("quota", 0.01), ("quota", 0.1))
SHARES = (0.75, 0.5, 0.25)
LINKS = ((5e6, 0.0), (20e6, 0.0), (100e6, 0.0), (20e6, 1e-3), (20e6, 5e-3), (100e6, 1e-3))
RELAYS = (0.5e-3, 5e-3, 50e-3)
WORK_SECONDS, IDLE_SECONDS, REPEATS = 0.01, 0.03, 40
TRIES, PAUSE_SECONDS = 20, 10.0
OTHERS = 0.05  # of the core; more, and the case is disturbed
WORK = """
import sys, time
def work(count):
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count): pass
    return time.perf_counter() - wall, time.process_time() - cpu
count = int(1_000_000 * float(sys.argv[1]) / min(work(1_000_000)[1] for _ in range(20)))
print("ready", flush=True)
sys.stdin.readline()
for idle in (0.0, float(sys.argv[2])):
    for _ in range(int(sys.argv[3])):
        time.sleep(idle)
        print(*work(count), flush=True)
sys.stdin.readline()
"""


def main() -> int:
    """Measure, tell, and keep the result."""
    machine = {"cpu": processor.name(), "kernel": platform.release(), "python": platform.python_version()}
    found: dict[str, Any] = {"machine": machine, "not_allowed": not_allowed(), "shares": [], "links": [], "relays": []}
    for how, period in RULES:
        if how in found["not_allowed"]:
            continue
        for share in SHARES:
            row = undisturbed(how, period, share)
            if row is None:
                print(f"{how}, {period} s, {share}: other programs were at work in all {TRIES} tries. Nothing is kept.")
                return 1
            found["shares"].append(row)
            print(row, flush=True)
    if not {"bandwidth", "latency"} & set(found["not_allowed"]):
        for rate, latency in LINKS:
            with shaped_link(rate, latency_seconds=latency) as link:
                assert link.there is not None
                assert link.there.bytes_per_second is not None
                row = {
                    "wanted_bytes_per_second": rate,
                    "wanted_latency_seconds": latency,
                    "bytes_per_second": link.there.bytes_per_second,
                    "latency_seconds": link.there.latency_seconds,
                }
            found["links"].append(row)
            print(row, flush=True)
    for latency in RELAYS:
        with relay(("127.0.0.1", 1), latency) as running:
            found["relays"].append(
                {"wanted_latency_seconds": latency, "latency_seconds": running.measured_latency_seconds}
            )
            print(found["relays"][-1], flush=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def undisturbed(how: str, period: float, share: float) -> dict[str, Any] | None:
    """The first try in which other programs left the core alone."""
    for _ in range(TRIES):
        row = of_share(how, period, share)
        if row["others_share"] <= OTHERS:
            return row
        time.sleep(PAUSE_SECONDS)
    return None


def of_share(how: str, period: float, share: float) -> dict[str, Any]:
    """Wall over CPU time of work under a rule, at once and after idling, and others' share of the core meanwhile."""
    command = [sys.executable, "-S", "-c", WORK, str(WORK_SECONDS), str(IDLE_SECONDS), str(REPEATS)]
    core = min(os.sched_getaffinity(0))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        pin(worker.pid, core)
        worker.stdout.readline()
        with slowed(worker.pid, share, how="quota" if how == "quota" else "duty cycle", period_seconds=period) as got:
            began, busy, own = time.monotonic(), busy_seconds(core), cpu_seconds(worker.pid)
            worker.stdin.write("\n")
            worker.stdin.flush()
            times = [tuple(map(float, worker.stdout.readline().split())) for _ in range(2 * REPEATS)]
            others = busy_seconds(core) - busy - (cpu_seconds(worker.pid) - own)
            others_share = max(0.0, others) / (time.monotonic() - began)
        worker.stdin.write("\n")
    slowdown = [wall / cpu for wall, cpu in times]
    return {
        "how": got.how,
        "period_seconds": period,
        "share": share,
        "spin_share": got.spin_share,
        "others_share": others_share,
        "slowdown": spread(slowdown[:REPEATS]),
        "slowdown_after_idling": spread(slowdown[REPEATS:]),
    }


def busy_seconds(core: int) -> float:
    """That a core hasn't idled since the machine's start; the helper that stops and continues is among it."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _, _, interrupts, soft_interrupts, stolen, *_ = map(int, line.split()[1:])
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def spread(times: list[float]) -> dict[str, float]:
    """Mean, and the first and last tenth."""
    tenths = statistics.quantiles(times, n=10)
    return {"mean": statistics.mean(times), "tenth": tenths[0], "ninetieth": tenths[-1]}


if __name__ == "__main__":
    sys.exit(main())
