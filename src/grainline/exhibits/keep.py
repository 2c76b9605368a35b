"""Full results, kept as JSON beside their figure, with the commit and the machine that they come from."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grainline import __version__
from grainline.documents import DocumentError, write_atomically
from grainline.exhibits.frame import Result
from grainline.exhibits.run import Outcome

FOLDER = Path("docs/exhibits/results")
FIELDS = tuple(field.name for field in fields(Result))


@dataclass(frozen=True)
class Kept:
    """A full result and where it comes from. `result.figure` is the SVG itself."""

    result: Result
    commit: str
    machine: Mapping[str, Any]
    measured_at: str
    seconds: float


def keep(outcome: Outcome, folder: Path) -> list[Path]:
    """Write NAME.json and NAME.svg; returns their paths. What was not measured, or only quickly, is not kept."""
    result = outcome.result
    if result.quick or result.verdict == "not-run":
        return []
    paths = [folder / f"{result.name}.json"]
    table = result.table()
    if result.figure is not None:
        paths.append(folder / f"{result.name}.svg")
        write_atomically(paths[1], result.figure + "\n")
        table["figure"] = paths[1].name
    table |= {
        "commit": commit(),
        "machine": machine(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(outcome.seconds, 1),
        "details": dict(outcome.details),
    }
    write_atomically(paths[0], json.dumps(table, indent=2, ensure_ascii=False) + "\n")
    return paths


def kept(folder: Path) -> dict[str, Kept]:
    """All results in a folder, by name."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            values = {key: _frozen(table[key]) for key in FIELDS}
            if values["figure"] is not None:
                values["figure"] = (folder / values["figure"]).read_text(encoding="utf-8").strip()
            origin = {key: table[key] for key in ("commit", "machine", "measured_at", "seconds")}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DocumentError([f"isn't a kept exhibit result ({type(error).__name__}: {error})."], path) from None
        found[values["name"]] = Kept(Result(**values), **origin)
    return found


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def commit() -> str:
    """The commit of the code that runs, with ``+changes`` where it was changed since; or the version, without git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        name = git("rev-parse", "HEAD")
        # Results being kept are changes too; what counts is the code.
        return f"{name}+changes" if git("status", "--porcelain", "--untracked-files=no", "--", "../") else name
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"


def machine() -> dict[str, Any]:
    """What matters of this machine to a measurement."""
    from grainline.hardware import look

    here = look(measure=False)
    return {
        "cpu": here.cpu,
        "system": f"{here.system} {here.architecture}",
        "threads": here.threads,
        "memory_gib": round(here.memory_bytes / 2**30, 1),
        "accelerators": [gpu.name for gpu in here.accelerators],
        "torch": here.torch,
    }
