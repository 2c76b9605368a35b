"""Builds the compiled core: every C++ file under src/grainline into one shared library, `grainline/_native.so`.

The library speaks C (pointers and sizes in), so one build serves every Python and torch. It runs on any processor of
its architecture: a file that is for newer ones says so in its first lines (``// on x86_64 with: -mavx2``), and whoever
calls it asks the processor first. Such a file that the compiler refuses is left out: GL_WITHOUT_ and its name tell the
others, and `grainline doctor` the person. The library's threads are its own (kernels/native/executor.h), so it brings
no second pool of OpenMP's beside torch's. Where no compiler is found the installation goes on without it; `grainline
doctor` says what is lost. Metadata and options are in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES, HEADERS = (sorted(str(path) for path in Path("src/grainline").rglob(pattern)) for pattern in ("*.cpp", "*.h"))
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra"]
MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def own_flags(source: str, machine: str | None) -> list[str]:
    """Flags that a file's first lines ask for: ``// compile with: …``, or ``// on MACHINE with: …``."""
    flags: list[str] = []
    for line in Path(source).read_text(encoding="utf-8").splitlines():
        asked = re.fullmatch(r"// (?:compile|on (\w+)) with: (.+)", line)
        if asked is None:
            break
        flags += asked[2].split() if asked[1] == machine else []
    return flags


class BuildNative(build_ext):
    """Compiles with the system's compiler; a failure is told, and stops nothing."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        found = (shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name)
        compiler = next(filter(None, found), None)
        if compiler is None:
            print("grainline: no C++ compiler was found; going on without the compiled core.", file=sys.stderr)
            return
        optional = [source for source in ext.sources if own_flags(source, MACHINE)]
        required = [source for source in ext.sources if source not in optional]
        objects, left_out = [], []

        def build(source: str, *more: str) -> None:
            built = Path(self.build_temp) / (source.replace("/", "_") + ".o")
            built.parent.mkdir(parents=True, exist_ok=True)
            flags = [*FLAGS, *own_flags(source, None), *own_flags(source, MACHINE), *more]
            subprocess.run([compiler, *flags, "-c", source, "-o", str(built)], check=True)
            objects.append(str(built))

        try:
            for source in optional:
                try:
                    build(source)
                except subprocess.CalledProcessError:
                    left_out.append(Path(source).stem)
                    print(f"grainline: {compiler} refuses {source}; going on without it.", file=sys.stderr)
            without = [f"-DGL_WITHOUT_{name.upper()}" for name in left_out]
            for source in required:
                build(source, *without, f'-DGL_LEFT_OUT="{", ".join(left_out)}"')
            # Beside the old one and then in its place: a process that has the old one loaded keeps it whole.
            new = target.with_name("_new.so")
            subprocess.run([compiler, "-shared", "-pthread", *objects, "-o", str(new)], check=True)
            new.replace(target)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"grainline: the compiled core could not be built ({error}); going on without it.", file=sys.stderr)


setup(
    ext_modules=[Extension("grainline._native", SOURCES, depends=HEADERS)] if SOURCES else [],
    cmdclass={"build_ext": BuildNative},
)
