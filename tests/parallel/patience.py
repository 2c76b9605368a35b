"""What each of two ranks runs: started by test_ranks.py, with collectives that time out after a second."""

from __future__ import annotations

import time
from datetime import timedelta

import torch

from grainline.parallel import join_ranks, ranks

ALONE_SECONDS = 3.0


def _made() -> str:
    time.sleep(ALONE_SECONDS)
    return "made"


def main() -> None:
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
