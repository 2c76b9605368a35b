"""Helper processes: started by us, ended by us, and ended by themselves should we be killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grainline.documents import GrainlineError

HERE = Path(__file__).parent
RUN = "import sys; sys.path.append({here!r}); from helpers import {script}; {script}.main()"
PATIENCE_SECONDS = 10.0


class NotAllowed(GrainlineError):
    """This machine doesn't allow an inequality: the message says which, why, and what would."""


class Helper:
    """A running script of `helpers`; `found` is what it said first."""

    def __init__(self, process: subprocess.Popen[bytes], script: str) -> None:
        self.process = process
        self.script = script
        self.found = self.answer()

    def answer(self) -> Mapping[str, Any]:
        """The next line that it says. RuntimeError if it ends without one."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise RuntimeError(f"the helper '{self.script}' ended: {self.process.stderr.read().decode()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, word: str) -> Mapping[str, Any]:
        """Say a word, and get the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()
        return self.answer()

    @property
    def running(self) -> bool:
        """Whether it hasn't ended by itself."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Let it put everything back, and wait until it has."""
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.write(b"stop\n")
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_SECONDS)
        _end(self.process)


@contextlib.contextmanager
def helper(
    script: str, settings: Mapping[str, Any], *, files: Iterable[int] = (), prefix: Sequence[str] = ()
) -> Iterator[Helper]:
    """Run a script of `helpers` until the block ends. `files` are what it inherits, `prefix` a command that starts it.

    Raises NotAllowed where the script says that it can't, and where the system has no pidfds.
    """
    if not hasattr(os, "pidfd_open") or sys.platform != "linux":
        raise NotAllowed("unequal hardware on one machine is made with Linux's means, which this system doesn't have")
    owner = os.pidfd_open(os.getpid())
    try:
        code = RUN.format(here=str(HERE), script=script)
        process = subprocess.Popen(
            [*prefix, sys.executable, "-S", "-E", "-c", code, json.dumps({**settings, "owner": owner})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(owner, *files),
            start_new_session=True,  # so that Ctrl-C at the terminal comes to the owner alone, who ends it in order
        )
    finally:
        os.close(owner)
    try:
        started = Helper(process, script)
    except BaseException:
        _end(process)
        raise
    try:
        if "error" in started.found:
            raise NotAllowed(started.found["error"])
        yield started
    finally:
        started.stop()


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM first, at which a helper still puts everything back."""
    for end in (process.terminate, process.kill):
        if process.poll() is None:
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_SECONDS)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def cpu_seconds(pid: int) -> float:
    """CPU time of all of a process's threads so far, by its own clock. ProcessLookupError if there is none."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3)
    except OSError as error:
        raise ProcessLookupError(f"there is no process {pid}") from error
