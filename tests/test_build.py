"""The build of the compiled core with a compiler that refuses some flags."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

pytestmark = pytest.mark.skipif(
    COMPILER is None or not (ROOT / "setup.py").is_file(), reason="needs a C++ compiler and a clone"
)

REFUSES = """#!/bin/sh
for flag in "$@"; do
    case $flag in
        -mamx*) echo "error: unrecognized command-line option '$flag'" >&2; exit 1;;
        -O3) flag=-O0;;  # takes a fifth of the time
    esac
    shift
    set -- "$@" "$flag"
done
exec {compiler} "$@"
"""


@pytest.mark.slow
def test_a_file_whose_flags_are_refused_is_left_out_and_named(tmp_path: Path) -> None:
    wrapper = tmp_path / "old-c++"
    wrapper.write_text(REFUSES.format(compiler=COMPILER))
    wrapper.chmod(0o755)
    clone = tmp_path / "clone"
    (clone / "src" / "grainline").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone / name)
    for source in (ROOT / "src" / "grainline").rglob("*"):
        if source.suffix in (".cpp", ".h", ".py"):
            target = clone / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    environment = os.environ | {"CXX": str(wrapper), "PYTHONPATH": str(clone / "src")}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    built = subprocess.run(build, cwd=clone, env=environment, capture_output=True, text=True, check=True)
    assert "refuses src/grainline/kernels/native/experts/path_amx.cpp" in built.stderr
    code = (
        "from grainline import _compiled; from grainline.kernels import native_experts as n, native_ops as o;"
        "from grainline.cli import doctor; check = doctor._compiled_core();"
        "print(_compiled.left_out(), 'amx' in n.paths(), o.instruction_sets()[0], check.state, check.found)"
    )
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("path_amx False ")
    assert "portable limited built without path_amx" in told.stdout
