"""The simulator against reality: predicted and measured step times of pipelines on two processes, each on a core.

Five settings: two equal ranks; one rank truly slower (a duty cycle); a narrow link between them; both at once; a link
that is long as well. In each, the ranks profile every cell and the link by themselves, the simulator predicts every
schedule of every shape from that, the predictions are written down, and only then is anything run. Beside each stands a
naive prediction: the compute of all ranks, shared evenly. Settings that this machine doesn't allow are named, and left
out.

Two sets of shapes: those that the model of a step was settled on, and others, first run when it was settled.

    python benchmarks/bench_reality.py [--shapes unseen] [--steps 7] [--settings "equal; slow rank"]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grainline.hardware import processor
from grainline.hardware.unequal import Link, NotAllowed, shaped_link, slowed

RESULTS = {
    "settled": Path(__file__).parent / "results" / "reality.json",
    "unseen": Path(__file__).parent / "results" / "reality_unseen.json",
}
PROGRAM = Path(__file__).with_name("reality_rank.py")
CORES = (0, 1)
APART = 0.10
"""Only schedules whose predicted times differ by as much say anything about ranking."""


@dataclass(frozen=True)
class Setting:
    """What is made unequal."""

    share: float | None = None  # of its core that rank 1 gets
    bytes_per_second: float | None = None  # of the link between the ranks
    latency_seconds: float = 0.0


SETTINGS = {
    "equal": Setting(),
    "slow rank": Setting(share=0.6),
    "narrow link": Setting(bytes_per_second=25e6),
    "slow rank, narrow link": Setting(share=0.6, bytes_per_second=25e6),
    "narrow, long link": Setting(bytes_per_second=25e6, latency_seconds=1e-3),
}


def run(setting: Setting, steps: int, shapes: str) -> dict[str, Any]:
    """Start both ranks under the setting, and gather what they wrote. Raises NotAllowed."""
    folder = Path(tempfile.mkdtemp(prefix="reality-"))
    made: dict[str, Any] = {}
    try:
        with ExitStack() as stack:
            link: Link | None = None
            if setting.bytes_per_second is not None:
                link = stack.enter_context(
                    shaped_link(setting.bytes_per_second, latency_seconds=setting.latency_seconds)
                )
                assert link.there is not None
                made["link"] = {
                    "bytes_per_second": link.there.bytes_per_second,
                    "latency_seconds": link.there.latency_seconds,
                }
            began = time.perf_counter()
            port = free_port()
            ranks = [start(rank, folder, steps, shapes, link, port) for rank in range(len(CORES))]
            stack.callback(lambda: [rank.kill() for rank in ranks])
            if setting.share is not None:
                made["share"] = setting.share
                slow = stack.enter_context(slowed(ranks[1].pid, setting.share))
                made |= {"how": slow.how, "spin_share": slow.spin_share}
            wait(ranks)
            if link is not None:
                made["link_cpu_share"] = link.cpu_seconds() / (time.perf_counter() - began)
        found = json.loads((folder / "predictions.json").read_text())
        lines = (folder / "measured.jsonl").read_text().splitlines()
        measured = {line["trial"]: line["seconds"] for line in map(json.loads, lines)}
    finally:
        shutil.rmtree(folder)
    rows = [
        {"trial": trial, **predicted, "measured": statistics.median(measured[trial]), "seconds": measured[trial]}
        for trial, predicted in found["predictions"].items()
    ]
    return {"made": made, "messages": found["messages"], "rows": rows}


def start(rank: int, folder: Path, steps: int, shapes: str, link: Link | None, port: int) -> subprocess.Popen[bytes]:
    """One rank, in its end of the link if there is one."""
    command = [sys.executable, str(PROGRAM), str(folder), str(CORES[rank]), str(steps), shapes]
    env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(len(CORES)), "MASTER_PORT": str(port)}
    if link is None:
        return subprocess.Popen(command, env={**env, "MASTER_ADDR": "127.0.0.1"})
    env |= {"MASTER_ADDR": link.ends[0].address, "GLOO_SOCKET_IFNAME": "link0"}
    return subprocess.Popen(link.ends[rank].command(command), env=env)


def wait(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until both are done; raises RuntimeError as soon as one fails."""
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() for rank in ranks):
            break
        time.sleep(0.2)
    if any(rank.poll() for rank in ranks):
        raise RuntimeError("a rank failed: see above")


def errors(rows: Sequence[Mapping[str, Any]], which: str) -> list[float]:
    """Predicted over measured, less one."""
    return [row[which] / row["measured"] - 1 for row in rows]


def ranking(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Of pairs of one shape whose predicted times are apart: how many are measured in that order, and all."""
    right = pairs = 0
    for i, a in enumerate(rows):
        for b in rows[i + 1 :]:
            if a["trial"].split(",")[0] != b["trial"].split(",")[0]:
                continue
            fast, slow = sorted((a, b), key=lambda row: row["simulated"])
            if slow["simulated"] >= (1 + APART) * fast["simulated"]:
                pairs += 1
                right += fast["measured"] < slow["measured"]
    return right, pairs


def told(name: str, found: Mapping[str, Any]) -> str:
    """A setting's figures in lines."""
    rows = found["rows"]
    lines = [f"{name}: {found['made']}, {found['messages']}"]
    for row in rows:
        off, naive = (100 * (row[which] / row["measured"] - 1) for which in ("simulated", "naive"))
        lines.append(
            f"  {row['trial']:38} measured {row['measured']:.3f} s, simulated {row['simulated']:.3f} ({off:+.1f} %), "
            f"naive ({naive:+.1f} %)"
        )
    for which in ("simulated", "naive"):
        off_by = [abs(e) for e in errors(rows, which)]
        lines.append(f"  {which}: median error {statistics.median(off_by):.1%}, worst {max(off_by):.1%}")
    right, pairs = ranking(rows)
    return "\n".join([*lines, f"  {right} of {pairs} pairs apart by {APART:.0%} or more are in the predicted order"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=RESULTS, default="settled")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--settings", default="; ".join(SETTINGS), help="separated by semicolons")
    arguments = parser.parse_args()
    machine = {"cpu": processor.name(), "kernel": platform.release(), "python": platform.python_version()}
    result: dict[str, Any] = {"machine": machine, "settings": {}, "not_allowed": {}}
    kept = RESULTS[arguments.shapes]
    if kept.is_file() and (before := json.loads(kept.read_text()))["machine"] == machine:
        result["settings"] = before["settings"]  # of those that aren't measured anew
    for name in map(str.strip, arguments.settings.split(";")):
        try:
            result["settings"][name] = run(SETTINGS[name], arguments.steps, arguments.shapes)
        except NotAllowed as error:
            result["not_allowed"][name] = str(error)
            print(f"{name}: left out. {error}", flush=True)
            continue
        print(told(name, result["settings"][name]), flush=True)
        kept.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    raise SystemExit(main())
