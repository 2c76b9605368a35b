"""Ranks that a command starts don't outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from grainline.cli.spawn import PARENT

RANK = """
import sys, time
from grainline.cli.spawn import end_with_parent
end_with_parent()
print("up", flush=True)
time.sleep(60)
"""


def test_a_rank_is_told_to_stop_when_whoever_started_it_is_gone() -> None:
    theirs, ours = os.pipe()
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK],
        env={**os.environ, PARENT: str(theirs)},
        pass_fds=[theirs],
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    assert rank.stdout is not None
    assert rank.stdout.readline() == "up\n"
    assert rank.poll() is None
    os.close(ours)
    assert rank.wait(timeout=20) == -signal.SIGTERM
    rank.stdout.close()
