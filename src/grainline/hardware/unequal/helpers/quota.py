"""Keeps a process in a control group with a CPU quota until its owner is done; then it puts everything back."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from . import owner


def main() -> None:
    """Settings: pid, folder (of the new group), files (what to write into it), back (cgroup.procs of the old one)."""
    wanted = owner.settings()
    folder, back = Path(wanted["folder"]), Path(wanted["back"])
    try:
        folder.mkdir()
        for name, value in wanted["files"].items():
            (folder / name).write_text(value)
        (folder / "cgroup.procs").write_text(str(wanted["pid"]))
        owner.tell(ok=True)
        owner.Owner(wanted["owner"]).wait()
    except OSError as error:
        owner.tell(error=f"{error.strerror} ({error.filename or folder})")
    finally:
        dissolve(folder, back)


def dissolve(folder: Path, back: Path) -> None:
    """Move what is in a group back, and remove it. A group lingers for a moment after its last process ended."""
    for _ in range(200):
        try:
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):  # ended meanwhile
                    back.write_text(pid)
            os.rmdir(folder)
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
