"""Control groups that can be made here to give a process a CPU quota, and what killed processes left of them."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from grainline.hardware.limits import groups
from grainline.hardware.unequal.helpers.quota import dissolve

PREFIX = "grainline-"


@dataclass(frozen=True)
class Place:
    """Where a new group can be made for a process, and how it gets back."""

    generation: str  # "cgroup v1" or "cgroup v2"
    parent: Path
    back: Path  # cgroup.procs of the group that it is in

    def files(self, cores: float, period_seconds: float) -> dict[str, str]:
        """What to write into the new group, in this order, for `cores` cores' worth of every period."""
        period = round(period_seconds * 1e6)
        quota = max(1000, round(cores * period))  # the kernel's least
        if self.generation == "cgroup v2":
            return {"cpu.max": f"{quota} {period}"}
        return {"cpu.cfs_period_us": f"{period}", "cpu.cfs_quota_us": f"{quota}"}

    def new(self) -> Path:
        """A name that tells whose it is, for `sweep`."""
        return self.parent / f"{PREFIX}{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(4)}"


def place_for(pid: int, root: Path = Path("/")) -> Place | str:
    """Where a group for a process can be made, or why none can."""
    found = [folder for folder in groups(root, "cpu", str(pid)) if (folder / "cgroup.procs").exists()]
    if not found:
        return "no control group for CPU time is mounted"
    own = found[0]
    if (own / "cpu.cfs_quota_us").exists():
        return _writable(Place("cgroup v1", own, own / "cgroup.procs"))
    # In version 2 a group with processes has no children with controllers, so that the new one goes beside its own.
    for folder in found:
        if "cpu" in _words(folder / "cgroup.subtree_control"):
            return _writable(Place("cgroup v2", folder, own / "cgroup.procs"))
    return f"no group above {own} hands CPU time on to its children (cgroup.subtree_control has no cpu)"


def sweep(root: Path = Path("/")) -> int:
    """Dissolve groups whose maker is dead, should its helper have been killed as well; returns how many."""
    swept = 0
    for folder in groups(root, "cpu"):
        for left in folder.glob(f"{PREFIX}*"):
            pid, _, rest = left.name.removeprefix(PREFIX).partition("-")
            if pid.isdigit() and _started(int(pid)) != rest.partition("-")[0]:
                dissolve(left, folder / "cgroup.procs")
                swept += 1
    return swept


def _writable(place: Place) -> Place | str:
    for path in (place.parent, place.back):
        if not os.access(path, os.W_OK):
            return f"{path} can't be written by this user"
    return place


def _started(pid: int) -> str:
    """When a process began, in ticks since the machine's start, which tells it from later ones of its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
