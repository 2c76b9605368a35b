"""What `make` says before it installs anything, with a disk and a Python that only pretend."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GIB_IN_KIB = 1 << 20


@pytest.fixture
def made(tmp_path: Path):
    """`made(free_gib)` → the script's end, with so much free disk, on Linux x86-64, and a Python that makes no venv."""

    def run(free_gib: int, system: str = "Linux x86_64", **environment: str) -> subprocess.CompletedProcess[str]:
        commands = {
            "df": f"echo head; echo disk 1 1 {free_gib * GIB_IN_KIB} 1% /",
            "uname": f"case $1 in -s) echo {system.split()[0]} ;; *) echo {system.split()[1]} ;; esac",
            "python3.12": "[ $1 = -c ] && echo 3.12 || exit 1",
        }
        for name, body in commands.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)
        return subprocess.run(
            ["sh", "scripts/environment.sh", str(tmp_path / "venv"), str(tmp_path / "python3.12")],
            cwd=ROOT,
            env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_too_little_disk_for_any_torch_stops(made) -> None:
    done = made(3)
    assert done.returncode == 1
    assert "needs 4 GiB of free disk here; there are 3 GiB" in done.stderr


def test_a_disk_for_the_small_torch_is_only_remarked_on(made) -> None:
    done = made(5)
    assert "5 GiB of disk are free: enough for a CPU build of torch" in done.stderr
    assert "could not make an environment" in done.stderr, "it went on"
    assert "CPU build" not in made(10).stderr
    assert "CPU build" not in made(5, "Darwin arm64").stderr


def test_other_platforms_stop_unless_told(made) -> None:
    done = made(100, "Darwin x86_64")
    assert done.returncode == 1
    assert "this is Darwin x86_64" in done.stderr
    assert "could not make an environment" in made(100, "Darwin x86_64", ANYWHERE="1").stderr
