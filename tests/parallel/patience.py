"""What each of two ranks runs: started by test_ranks.py, with collectives that time out after a second."""

from __future__ import annotations

import atexit
import time
from datetime import timedelta
from pathlib import Path

import torch

from grainline.parallel import join_ranks, ranks

ALONE_SECONDS = 3.0


def _made() -> str:
    time.sleep(ALONE_SECONDS)
    return "made"


def _groups_alive() -> None:
    """Their threads must have ended by the time Python does: one that comes to hold an object then aborts."""
    names = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
    print("threads left" if any("gloo_runloop" in name for name in names) else "all ended")


def main() -> None:
    atexit.register(_groups_alive)  # so runs after what join_ranks registers
    ranks.COLLECTIVE_TIMEOUT = timedelta(seconds=1)
    here = join_ranks("cpu")
    print(here.on_first(_made))
    here.barrier()
    if here.is_first:
        time.sleep(ALONE_SECONDS)
    try:
        here.sum_(torch.ones(1))
    except RuntimeError as error:
        print("timed out" if "imed out" in str(error) else error)


if __name__ == "__main__":
    main()
