"""Several processes of one command on this machine, as torchrun would start them, for those who have no cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

STOP_SECONDS = 15.0
"""What the others have to end by themselves when one has failed: they hear of it and say so."""

POLL_SECONDS = 0.1
PARENT = "GRAINLINE_PARENT_PIPE"
"""The end of a pipe whose other end only the process that started the ranks holds: it closes when that is gone."""

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Process = subprocess.Popen[bytes]


def run_ranks(arguments: Sequence[str], ranks: int) -> int:
    """Run `grainline ARGUMENTS` in so many processes that find each other; returns the worst exit code.

    Each signal is passed on to them once. When one fails, the others are ended after a moment; when this process is
    killed, they stop as after SIGTERM (`end_with_parent`).
    """
    theirs, ours = os.pipe()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    world |= {
        PARENT: str(theirs),
        "LOCAL_WORLD_SIZE": str(ranks),
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }
    started: list[Process] = []
    with _signals_passed_on(started):
        for rank in range(ranks):
            environment = os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", "grainline", *arguments]
            # In a session of its own: the terminal's Ctrl-C would come to it a second time, which means "at once".
            started.append(subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=[theirs]))
        _wait(started)
    os.close(theirs)
    os.close(ours)
    codes = [process.returncode for process in started]
    # A rank that was killed has a negative code; one that says what is wrong has a better one.
    return next((code for code in codes if code > 0), next((1 for code in codes if code < 0), 0))


def end_with_parent() -> None:
    """In a rank: be told to stop, as by SIGTERM, when the process that started it is gone without a word."""
    pipe = os.environ.pop(PARENT, None)
    if pipe is None:
        return

    def watch() -> None:
        os.read(int(pipe), 1)  # nobody writes: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _wait(started: Sequence[Process]) -> None:
    failed_at: float | None = None
    while any(process.poll() is None for process in started):
        time.sleep(POLL_SECONDS)
        if failed_at is None and any(process.poll() for process in started):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > STOP_SECONDS:
            for process in started:
                process.kill()


@contextlib.contextmanager
def _signals_passed_on(processes: Sequence[Process]) -> Iterator[None]:
    def pass_on(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
