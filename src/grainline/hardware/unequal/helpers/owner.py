"""What every helper knows of the process that started it: that it is there, and what it says.

Helpers are scripts that know nothing of grainline, start in a few milliseconds, and end with their owner, even where
that is killed: its pidfd tells. (A closed pipe alone wouldn't: the owner's forked children hold it open.)
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

PR_SET_PDEATHSIG, PR_SET_TIMERSLACK = 1, 29
LIBC = ctypes.CDLL(None, use_errno=True)


def settings() -> dict[str, Any]:
    """What the owner wants, from the command line; also makes SIGTERM run the `finally` clauses."""
    signal.signal(signal.SIGTERM, _leave)
    return dict(json.loads(sys.argv[1]))


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def tell(**found: Any) -> None:
    """One line of JSON to the owner."""
    with contextlib.suppress(BrokenPipeError):  # it is gone
        print(json.dumps(found), flush=True)


class Owner:
    """`says()` waits for the owner: "stop" if it is gone or wants an end, else what it asks."""

    def __init__(self, pidfd: int) -> None:
        self.files = (0, pidfd)
        self._rest = b""

    def says(self, timeout_seconds: float | None = None) -> str:
        """The next word from the owner, or "" if there is none in time."""
        while True:
            if b"\n" in self._rest:
                line, self._rest = self._rest.split(b"\n", 1)
                return line.decode()
            ready, _, _ = select.select(self.files, (), (), timeout_seconds)
            if not ready:
                return ""
            if 0 not in ready:
                return "stop"
            more = os.read(0, 4096)
            if not more:
                return "stop"
            self._rest += more

    def wait(self) -> None:
        """Until the owner is gone or wants an end."""
        while self.says() != "stop":
            pass


def leave_with(pidfd: int) -> None:
    """For a script that is busy otherwise: a thread that ends the process when the owner is gone or wants an end."""

    def watch() -> None:
        Owner(pidfd).wait()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """For a process forked from a helper: get this signal when the helper dies, however it dies."""
    parent = os.getppid()
    LIBC.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def be_punctual() -> None:
    """Sleep to the microsecond, and come before others where the system allows it."""
    LIBC.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def call(name: str, *arguments: int) -> None:
    """A function of the C library that says -1 where it fails, e.g. unshare and setns; OSError then."""
    if getattr(LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
