"""A processor made unequal: a process pinned to a core, or left a share of one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grainline.hardware.unequal.groups import Place, place_for, sweep
from grainline.hardware.unequal.process import Helper, NotAllowed, cpu_seconds, helper

How = Literal["any", "quota", "duty cycle"]
PERIOD_SECONDS = 0.01
MEASURE_SECONDS = 0.4


def pin(pid: int, core: int) -> None:
    """Let all threads of a process, and those that they start, run on one core (a logical one, by its number).

    Raises NotAllowed where the system has no affinity, the core isn't ours, or the process another user's.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise NotAllowed("this system can't pin a process to a core")
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), {core})
    except FileNotFoundError:
        raise ProcessLookupError(f"there is no process {pid}") from None
    except OSError as error:
        ours = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise NotAllowed(
            f"process {pid} can't be pinned to core {core}: {error.strerror}. Cores of this process: {ours}."
        ) from None


@dataclass(frozen=True)
class Slowed:
    """What `slowed` gave: wanted and measured."""

    share: float  # wanted, of each core
    how: str  # "cgroup v1 quota", "cgroup v2 quota", "duty cycle", or "not slowed"
    period_seconds: float
    spin_share: float | None  # of a core that a spin loop got under the same rule, just before; None if not measured
    free_share: float | None  # that it got without the rule: below 1, other programs were at work
    why_no_quota: str  # empty if there is one
    pid: int
    began: float
    cpu_seconds_before: float

    def used_share(self) -> float:
        """Of a core, since the beginning; less than `share` where the process was waiting for something else."""
        return (cpu_seconds(self.pid) - self.cpu_seconds_before) / (time.monotonic() - self.began)


@contextmanager
def slowed(
    pid: int,
    share: float,
    *,
    how: How = "duty cycle",
    cores: int = 1,
    period_seconds: float = PERIOD_SECONDS,
    measure_seconds: float = MEASURE_SECONDS,
) -> Iterator[Slowed]:
    """While the block runs, process `pid` gets a `share` (0 to 1) of the `cores` that it computes on.

    A duty cycle stops the process for the rest of every period, whatever it does: work takes longer by 1/share at any
    time, as on a slower core. A quota, through a control group where one can be written, limits the CPU time in every
    period: a process that has waited runs at full speed for a while, as in a container. "any" is a quota where it is to
    be had, else a duty cycle. `benchmarks/bench_unequal.py` measures what each does.

    `measure_seconds` go to a spin loop before (0: none). All is undone at the end, also if this process is killed.
    Raises NotAllowed where it isn't to be had, and RuntimeError at the end if the rule ended before it.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share}: must be above 0 and at most 1")
    if not 0.001 <= period_seconds <= 1:
        raise ValueError(f"a period of {period_seconds} seconds: must be from 0.001 to 1")
    place: Place | str = "a duty cycle was asked for"
    if how != "duty cycle":
        sweep()
        place = place_for(pid)
    if isinstance(place, str) and how == "quota":
        raise NotAllowed(f"process {pid} can't be given a CPU quota: {place}")
    spin, free = (None, None) if not measure_seconds else _measure(share, place, period_seconds, measure_seconds, pid)
    with _rule(pid, share * cores, share, place, period_seconds) as rule:
        by = "not slowed" if rule is None else "duty cycle" if isinstance(place, str) else f"{place.generation} quota"
        why = place if isinstance(place, str) else ""
        before = cpu_seconds(pid)
        yield Slowed(share, by, period_seconds, spin, free, why, pid, time.monotonic(), before)
        if rule is not None and not rule.running and not _has_ended(pid):
            raise RuntimeError(f"the {by} of process {pid} ended before its time: it has run at full speed since")


@contextmanager
def _rule(pid: int, quota_cores: float, share: float, place: Place | str, period: float) -> Iterator[Helper | None]:
    if share == 1:
        yield None
    elif isinstance(place, Place):
        settings = {
            "pid": pid,
            "folder": str(place.new()),
            "files": place.files(quota_cores, period),
            "back": str(place.back),
        }
        with helper("quota", settings) as running:
            yield running
    else:
        target = _pidfd(pid)
        try:
            settings = {"target": target, "share": share, "period_seconds": period}
            with helper("duty", settings, files=[target]) as running:
                yield running
        finally:
            os.close(target)


def _has_ended(pid: int) -> bool:
    """Also of one that its parent hasn't waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _pidfd(pid: int) -> int:
    if not hasattr(os, "pidfd_open"):
        raise NotAllowed("a duty cycle needs Linux 5.3 or newer: there are no pidfds on this system")
    return os.pidfd_open(pid)


def _measure(share: float, place: Place | str, period: float, seconds: float, pid: int) -> tuple[float, float]:
    """(the share that a spin loop gets on one of the process's cores under the rule, and without it)."""
    core = min(os.sched_getaffinity(pid))
    with ExitStack() as stack:
        spin = stack.enter_context(helper("spin", {"cores": [core]})).process.pid
        free = _share_over(spin, seconds / 2)
        stack.enter_context(_rule(spin, share, share, place, period))
        return _share_over(spin, seconds), free


def _share_over(pid: int, seconds: float) -> float:
    start, before = time.monotonic(), cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - start)
