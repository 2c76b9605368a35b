"""What a container or a job scheduler leaves to this process: control groups' limits on CPU time and memory.

Both generations are read. Version 2 has one tree at /sys/fs/cgroup; version 1 has one tree per controller. A limit set
on any group between the root and this process binds, so the tightest one counts. Every function takes the root of the
file system, so that tests can lay out a tree of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that this process may use, or None without a limit."""
    quotas = []
    for folder in groups(root, "cpu"):
        words = _words(folder / "cpu.max")  # "max 100000" or "150000 100000"
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def memory_limit(root: Path = Path("/")) -> tuple[int, int] | None:
    """(limit, still free under it) in bytes of the group with the least left, or None without a limit.

    Pages of files that the kernel can drop count as free.
    """
    found = []
    for folder in groups(root, "memory"):
        for limit_name, used_name, droppable in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None and limit < 1 << 60:  # version 1 says "no limit" as about 2**63
                found.append((limit, max(0, limit - used + _statistic(folder / "memory.stat", droppable))))
    return min(found, key=lambda pair: pair[1], default=None)


def groups(root: Path, controller: str, process: str = "self") -> Iterator[Path]:
    """Folders of a process's groups for one controller, from its own up to the root of the tree."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / f"proc/{process}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tree = mount if (mount / "cgroup.controllers").exists() else mount / "unified"
        elif controller in controllers.split(","):
            tree = mount / controller
        else:
            continue
        own = tree / path.lstrip("/")
        # In a container the path is the host's while the mount is our part of the tree: then the mount is our group.
        yield from (f for f in (own, *own.parents) if f == tree or tree in f.parents)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.removeprefix("-").isdigit() else None


def _statistic(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _text(path).splitlines() if line.startswith(f"{name} ")), 0)
