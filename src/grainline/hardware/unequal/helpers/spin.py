"""Spins until its owner is done: what a share of a core is measured with."""

from __future__ import annotations

import os
import select

from . import owner


def main() -> None:
    """Settings: cores (where to run; none: anywhere)."""
    wanted = owner.settings()
    if wanted["cores"]:
        os.sched_setaffinity(0, wanted["cores"])
    files = owner.Owner(wanted["owner"]).files
    owner.tell(ok=True)
    while not select.select(files, (), (), 0)[0]:
        for _ in range(10_000):
            pass
