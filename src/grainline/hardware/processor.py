"""The CPU: its name, its cores, the features that matter to matmuls, and its memory."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

from grainline.hardware.limits import cpu_quota, memory_limit

# The kernel's flag → the name people use.
FEATURES = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_bf16": "avx512-bf16",
    "avx512_vnni": "avx512-vnni",
    "amx_bf16": "amx-bf16",
    "amx_int8": "amx-int8",
    "asimd": "neon",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
}
APPLE_FEATURES = {"hw.optional.neon": "neon", "hw.optional.arm.FEAT_BF16": "bf16", "hw.optional.arm.FEAT_I8MM": "i8mm"}


def name(root: Path = Path("/")) -> str:
    """The processor's marketing name, or its architecture where the system doesn't tell."""
    if platform.system() == "Darwin":
        return sysctl("machdep.cpu.brand_string") or platform.machine()
    return _cpuinfo(root, "model name") or _device_tree(root) or f"{platform.machine()} CPU"


def features(root: Path = Path("/")) -> tuple[str, ...]:
    """Vector and matrix extensions present, in people's words, in FEATURES' order."""
    if platform.system() == "Darwin":
        return tuple(word for key, word in APPLE_FEATURES.items() if sysctl(key) == "1")
    flags = set((_cpuinfo(root, "flags") or _cpuinfo(root, "Features")).split())
    return tuple(word for flag, word in FEATURES.items() if flag in flags)


def logical_cores() -> int:
    """Hardware threads of the machine."""
    return os.cpu_count() or 1


def physical_cores(root: Path = Path("/"), allowed: Iterable[int] | None = None) -> int:
    """Cores of the machine, or those among the `allowed` logical ones; two hardware threads of a core count once."""
    if platform.system() == "Darwin":
        return int(sysctl("hw.physicalcpu") or logical_cores())
    cores = set()
    for cpu in range(logical_cores()) if allowed is None else allowed:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        try:
            cores.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:
            cores.add((str(cpu), ""))
    return max(1, len(cores))


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores that affinity and the control group's quota leave to this process; at least one.

    More threads than the quota would be stopped in the middle of a matmul while the others wait, so it rounds down.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = physical_cores(root, allowed)
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def threads(usable: int) -> int:
    """Threads to compute with: what OMP_NUM_THREADS says, else one per usable core.

    torchrun sets it to 1 where nobody has said anything, so there 1 is no wish; a plan's `execution.threads` is.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said == "1" and "TORCHELASTIC_RUN_ID" in os.environ:
        return usable
    return int(said) if said.isdigit() and int(said) > 0 else usable


def memory(root: Path = Path("/")) -> tuple[int, int]:
    """(total, available) bytes of RAM, as the tightest control group leaves them; 0 where the system doesn't tell."""
    if platform.system() == "Darwin":
        return _apple_memory()
    total, available = _meminfo(root / "proc/meminfo")
    limit = memory_limit(root)
    return (total, available) if limit is None else (min(total, limit[0]), min(available, limit[1]))


def _meminfo(file: Path) -> tuple[int, int]:
    try:
        lines = file.read_text().splitlines()
    except OSError:  # no Linux, or a Linux that hides it
        return 0, 0
    sizes = {key: int(value.split()[0]) * 1024 for key, value in (line.split(":", 1) for line in lines)}
    return sizes["MemTotal"], sizes.get("MemAvailable") or sizes["MemFree"]  # Linux before 3.14 has only MemFree


def _apple_memory() -> tuple[int, int]:
    total = int(sysctl("hw.memsize") or 0)
    pages = {}
    for line in _output(["vm_stat"]).splitlines()[1:]:
        key, _, value = line.partition(":")
        pages[key.strip('"')] = value.strip().rstrip(".")
    free = sum(int(pages.get(f"Pages {kind}") or 0) for kind in ("free", "inactive", "purgeable", "speculative"))
    return total, free * int(sysctl("hw.pagesize") or 16384)


def _cpuinfo(root: Path, key: str) -> str:
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _device_tree(root: Path) -> str:
    """Many aarch64 kernels name the board and not the processor."""
    try:
        return (root / "proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        return ""


def sysctl(key: str) -> str:
    """What macOS says of a key, "" if nothing."""
    return _output(["sysctl", "-n", key]).strip()


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
