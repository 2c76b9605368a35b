"""Stops and continues a process so that it runs a set share of every period.

Two processes, so that the target is never left stopped: one beats, and one watches the owner, the target and the
beater, and continues the target at the end. If the watcher is killed, the beater hears of it and does the same.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from . import owner


def main() -> None:
    """Settings: target (a pidfd), share, period_seconds."""
    wanted = owner.settings()
    target: int = wanted["target"]
    beater = os.fork()
    if beater == 0:
        owner.die_with_parent(signal.SIGTERM)
        beat(target, wanted["share"], wanted["period_seconds"])
        os._exit(0)
    ending = os.pidfd_open(beater)
    try:
        owner.tell(ok=True, beater=beater)
        # Anything that is heard means the end.
        select.select((*owner.Owner(wanted["owner"]).files, target, ending), (), ())
    finally:
        os.kill(beater, signal.SIGKILL)
        os.waitpid(beater, 0)
        resume(target)


def beat(target: int, share: float, period_seconds: float) -> None:
    """Run, stop, run, stop, by absolute times, so that lateness doesn't add up."""
    try:
        owner.be_punctual()
        start = time.monotonic()
        while True:
            sleep_until(start + share * period_seconds)
            signal.pidfd_send_signal(target, signal.SIGSTOP)
            start += period_seconds
            sleep_until(start)
            signal.pidfd_send_signal(target, signal.SIGCONT)
    except ProcessLookupError:
        pass  # the target has ended
    except SystemExit:
        resume(target)


def resume(target: int) -> None:
    """Let the target run."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(target, signal.SIGCONT)


def sleep_until(moment: float) -> None:
    """Returns at once where it has passed."""
    time.sleep(max(0.0, moment - time.monotonic()))
