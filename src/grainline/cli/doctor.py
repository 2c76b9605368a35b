"""`grainline doctor`: what works on this machine, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import json as json_module
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grainline._progress import counts
from grainline.cli import ANYWHERE
from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from grainline.hardware import Machine

GIB = 1 << 30
PIP = f"{sys.executable} -m pip install"
EXTRAS = {
    "transformers": "parity tests against other implementations",
    "tensorboard": "training curves in TensorBoard",
    "mkdocs-material": "building the documentation",
}


@dataclass(frozen=True)
class Check:
    """One thing looked at. `missing` fails the examination; `limited` means that something optional won't work."""

    name: str
    state: Literal["ok", "limited", "missing"]
    found: str
    mend: str = ""  # the command, or what to do


def run(*, folder: Path = Path("."), json: bool = False) -> int:
    """Say what works on this machine, what is missing, and the command that mends it.

    The exit code is 1 if something that grainline can't do without is missing.

    Args:
        folder: where models and runs will be written: its disk and permissions are looked at
        json: print a JSON list of {name, state: ok | limited | missing, found, mend}
    """
    checks = list(examine(folder))
    if json:
        print(json_module.dumps([asdict(check) for check in checks], indent=2))
    else:
        _show(checks)
    return 1 if any(check.state == "missing" for check in checks) else 0


def examine(folder: Path) -> Iterator[Check]:
    """Every check, in the order in which they are to be mended."""
    from grainline.hardware import look

    machine = look(measure=_torch_fits(), disk=folder)
    yield _python()
    yield _platform(machine)
    yield _packages()
    yield _torch(machine)
    yield _bfloat16(machine)
    yield _accelerator(machine)
    yield _compiler()
    yield _compiled_core()
    yield _memory(machine)
    yield _disk(machine)
    yield _writable(folder)
    yield _hub()
    for distribution, what in EXTRAS.items():
        yield _extra(distribution, what)


def _python() -> Check:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    mend = "" if good else "use Python 3.11, 3.12 or 3.13: make test PYTHON=/path/to/python3.12"
    return Check("Python", "ok" if good else "missing", platform.python_version(), mend)


def _platform(machine: Machine) -> Check:
    found = f"{machine.system} {machine.architecture}"
    if machine.platform_is_promised:
        return Check("platform", "ok", found)
    # As for the other verbs, which stop here unless they are told to try.
    state: Literal["limited", "missing"] = "limited" if os.environ.get(ANYWHERE) else "missing"
    mend = f"use Linux on x86-64 or aarch64, or macOS on Apple silicon; or try all the same: set {ANYWHERE}=1"
    return Check("platform", state, found, mend)


def _packages() -> Check:
    """What grainline's own metadata requires, torch apart."""
    wrong = []
    for requirement in _requirements():
        version = _version(requirement.name)
        if requirement.name != "torch" and (version is None or not requirement.specifier.contains(version, True)):
            wrong.append(f"'{requirement.name}{requirement.specifier}'")
    if wrong:
        return Check("packages", "missing", f"not as required: {', '.join(wrong)}", f"{PIP} {' '.join(wrong)}")
    return Check("packages", "ok", "all that grainline requires")


def _torch(machine: Machine) -> Check:
    wanted = _wanted_torch()
    if machine.torch is None:
        return Check("torch", "missing", "not installed", f"{PIP} '{wanted}'")
    if not _torch_fits():
        return Check("torch", "missing", f"{machine.torch}, but grainline needs {wanted}", f"{PIP} '{wanted}'")
    if machine.torch_build == "CPU" and shutil.which("nvidia-smi"):
        mend = f"{PIP} --force-reinstall '{wanted}'"
        return Check("torch", "limited", f"{machine.torch}, built for the CPU, beside an NVIDIA GPU", mend)
    return Check("torch", "ok", f"{machine.torch}, built for {machine.torch_build}")


def _torch_fits() -> bool:
    version = _version("torch")
    return version is not None and _wanted_torch().specifier.contains(version, prereleases=True)


def _wanted_torch() -> Requirement:
    return next(requirement for requirement in _requirements() if requirement.name == "torch")


def _requirements() -> list[Requirement]:
    """What grainline requires on this platform, extras apart."""
    from packaging.requirements import Requirement

    try:
        found = map(Requirement, importlib.metadata.requires("grainline") or ())
    except importlib.metadata.PackageNotFoundError:
        raise GrainlineError(f"grainline runs from a folder that isn't installed. Install it: {PIP} -e .") from None
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]


def _bfloat16(machine: Machine) -> Check:
    gain = machine.bfloat16_gain()
    if gain is None:
        return Check("bfloat16", "limited", "not measured; computing in float32")
    words = f"{gain:.1f} × float32's matmul rate"
    return Check("bfloat16", "ok", words if machine.bfloat16_pays() else f"{words}, too little: computing in float32")


def _accelerator(machine: Machine) -> Check:
    names = [f"{gpu.name} ({gpu.memory_bytes / GIB:.0f} GiB)" for gpu in machine.accelerators]
    threads = counts(machine.threads, "thread")
    return Check("accelerator", "ok", ", ".join(names) or f"none; computing on the CPU with {threads}")


def _compiler() -> Check:
    """torch.compile builds C++ against Python's headers."""
    import sysconfig

    apple = platform.system() == "Darwin"
    compiler = next(
        filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))), None
    )
    if compiler is None:
        mend = "xcode-select --install" if apple else "install g++, e.g. sudo apt install g++"
        return Check("C++ compiler", "limited", "none: torch.compile won't work on the CPU", mend)
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        mend = "install Python's headers, e.g. sudo apt install python3-dev"
        return Check(
            "C++ compiler", "limited", f"{compiler}, but no Python.h: torch.compile won't work on the CPU", mend
        )
    return Check("C++ compiler", "ok", compiler)


def _compiled_core() -> Check:
    """The library that the installation builds where it finds a compiler."""
    from grainline import _compiled

    if _compiled.library() is not None:
        left_out = _compiled.left_out()
        if left_out:
            mend = f"with a newer C++ compiler, in a clone: {PIP} --no-deps -e ."
            return Check("compiled core", "limited", f"built without {left_out}: the compiler refused them", mend)
        if not _torch_fits():
            return Check("compiled core", "ok", "loaded")
        from grainline.kernels import native_experts

        return Check("compiled core", "ok", f"loaded; experts are computed by its {native_experts.path()} kernels")
    if os.environ.get(_compiled.OFF):
        return Check("compiled core", "limited", f"{_compiled.OFF} is set", f"unset {_compiled.OFF}")
    lost = "not built: norms, rotations and decoding take 2–4 × as long, simulations more; memory's rate is NumPy's"
    return Check("compiled core", "limited", lost, f"with a C++ compiler, in a clone: {PIP} --no-deps -e .")


def _memory(machine: Machine) -> Check:
    if not machine.memory_bytes:
        return Check("memory", "limited", "this system doesn't say", "see that 2 GiB are free for the quickstart")
    found = f"{machine.memory_available_bytes / GIB:.1f} GiB available of {machine.memory_bytes / GIB:.1f} GiB"
    if machine.memory_available_bytes < 2 * GIB:
        return Check("memory", "limited", found, "the quickstart wants 2 GiB: close other programs, or lower --depth")
    return Check("memory", "ok", found)


def _disk(machine: Machine) -> Check:
    found = f"{machine.disk_free_bytes / GIB:.1f} GiB free at {machine.disk_path}"
    if machine.disk_free_bytes < 2 * GIB:
        return Check("disk", "limited", found, "runs and checkpoints want 2 GiB: free some, or name another --folder")
    return Check("disk", "ok", found)


def _writable(folder: Path) -> Check:
    folder = folder.absolute()
    nearest = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Check("writing", "ok", str(folder))
    except OSError as error:
        mend = f"make {nearest} writable, or name another --folder"
        return Check("writing", "missing", f"{nearest}: {error.strerror}", mend)


def _hub() -> Check:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    kept = len(list(cache.glob("models--*")))
    mode = "offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "online when a model isn't cached"
    return Check("Hugging Face hub", "ok", f"{kept} models in {cache}; {mode}")


def _extra(distribution: str, what: str) -> Check:
    version = _version(distribution)
    if version is None:
        return Check(distribution, "limited", f"not installed: no {what}", f"{PIP} {distribution}")
    return Check(distribution, "ok", version)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _show(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {"ok": ("✓", "green"), "limited": ("–", "yellow"), "missing": ("✗", "bold red")}
    found = Table(show_header=False, box=None, pad_edge=False)
    found.add_column()
    found.add_column(style="bold", no_wrap=True)
    found.add_column(overflow="fold")
    for check in checks:
        mark, style = marks[check.state]
        words = Text(check.found)
        if check.mend:
            words.append(f"\n→ {check.mend}", style="cyan")
        found.add_row(Text(mark, style=style), check.name, words)
    console = Console()
    console.print(found)
    missing = [check.name for check in checks if check.state == "missing"]
    console.print(f"\nMissing: {', '.join(missing)}." if missing else "\nEverything that grainline needs is here.")
