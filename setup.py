"""Builds the compiled core: every C++ file under src/grainline into one shared library, `grainline/_native.so`.

The library speaks C (pointers and sizes in), so one build serves every Python and torch. Where no compiler is found the
installation goes on without it; `grainline doctor` says what is lost. Metadata and options are in pyproject.toml.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = sorted(str(path) for path in Path("src/grainline").rglob("*.cpp"))
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra"]


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
        # OpenMP's calls are left open: at run time they meet the library that torch has brought, not a second one.
        openmp = ["-fopenmp"] if sys.platform == "linux" else []
        linking = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        objects = []
        try:
            for source in ext.sources:
                built = Path(self.build_temp) / (source.replace("/", "_") + ".o")
                built.parent.mkdir(parents=True, exist_ok=True)
                flags = [f for f in FLAGS if f != "-shared"]
                subprocess.run([compiler, *flags, *openmp, "-c", source, "-o", str(built)], check=True)
                objects.append(str(built))
            subprocess.run([compiler, "-shared", *objects, *linking, "-o", str(target)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"grainline: the compiled core could not be built ({error}); going on without it.", file=sys.stderr)


setup(
    ext_modules=[Extension("grainline._native", SOURCES)] if SOURCES else [],
    cmdclass={"build_ext": BuildNative},
)
