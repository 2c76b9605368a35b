"""The native baseline of STREAM: `native_stream.c`, compiled here and now, and run as a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from grainline.exhibits.frame import NotRun
from grainline.kernels.stream import KERNELS
from grainline.kernels.stream.benchmark import Kernel
from grainline.kernels.stream.native import Store

SOURCE = Path(__file__).with_name("native_stream.c")
FLAGS = ("-O3", "-march=native", "-fopenmp")
ORDINARY = "-fno-tree-loop-distribute-patterns"
"""GCC makes memcpy of the copy loop, which past a certain size streams: then it would be another kind of store."""
PATIENCE_SECONDS = 60.0  # to end, once told


def compile_native(folder: Path, scalar: bool) -> Path:
    """The program, for one element at a time if `scalar`. Raises NotRun where no C compiler with OpenMP is found."""
    found = (shutil.which(name) for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name)
    compiler = next(filter(None, found), None)
    if compiler is None:
        raise NotRun("the native baseline needs a C compiler, and there is none. Install gcc or clang.")
    program = folder / f"native-stream-{'scalar' if scalar else 'vector'}"
    if not program.is_file():
        flags = [*FLAGS, *_ordinary(compiler), *(["-fno-tree-vectorize"] if scalar else [])]
        done = subprocess.run(
            [compiler, *flags, str(SOURCE), "-o", str(program)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            error = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
            raise NotRun(f"the native baseline can't be compiled by {compiler}: {error}")
    return program


def _ordinary(compiler: str) -> list[str]:
    """GCC's flag; others, which warn of it, have their own word for it."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    return ["-fno-builtin"] if "clang" in version else [ORDINARY]


class NativeStream:
    """The running program; ends with the `with` block, however that is left."""

    def __init__(self, program: Path, elements: int, cores: tuple[int, ...], memory: int | None = None) -> None:
        """One OpenMP thread on each of `cores`; -1 leaves the choice to the system.

        `memory`: a file that holds the three arrays, each from a whole page on; without it the program has its own.
        """
        places = {} if min(cores) < 0 else {"OMP_PLACES": ",".join(f"{{{c}}}" for c in cores), "OMP_PROC_BIND": "true"}
        threads = {"OMP_NUM_THREADS": str(len(cores)), "OMP_DYNAMIC": "false"}
        unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
        environment = {key: value for key, value in os.environ.items() if key not in unset} | threads | places
        self._process = subprocess.Popen(
            [str(program), str(elements), *([] if memory is None else [str(memory)])],
            env=environment,
            pass_fds=[] if memory is None else [memory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.threads = int(self._line())
        except BaseException:
            self.__exit__()
            raise

    def repetition(self, store: Store) -> dict[Kernel, float]:
        """Seconds of each kernel, once."""
        return dict(zip(KERNELS, map(float, self._ask(store).split()), strict=True))

    def reset(self) -> None:
        """Begin again with the first values."""
        self._ask("reset")

    def check(self) -> None:
        """Raises RuntimeError unless every element is what its own repetitions alone make of it, to the bit."""
        wrong = int(self._ask("check"))
        if wrong:
            raise RuntimeError(f"native STREAM: {wrong} elements are wrong")

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotRun(f"native STREAM ended with exit code {self._process.wait()}: too little memory?")
        return line

    def __enter__(self) -> NativeStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=PATIENCE_SECONDS)
