"""Progress of counted work, on standard error: a bar on a terminal, a plain line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_SECONDS = 5.0


@contextmanager
def counted(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """`with counted("scoring", 10) as more: …; more(1)`: `more` is told how many more are done."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(label, total=total)
            yield lambda count: progress.advance(task, count)
        return
    done, started, told = 0, time.monotonic(), time.monotonic()

    def more(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() - told >= PLAIN_SECONDS:
            told = time.monotonic()
            print(f"{label}: {done} of {total}, {told - started:.0f} s", file=sys.stderr, flush=True)

    yield more
