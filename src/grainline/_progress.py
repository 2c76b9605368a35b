"""How far work has come, for every room: counted work on standard error, and counts and seconds in words."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_SECONDS = 5.0  # between plain lines where there is no terminal


@contextmanager
def counted(label: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """`with counted("scoring", 10) as more: …; more(1)`: `more` is told how many more are done.

    A bar on a terminal, a plain line every few seconds in a log; nothing if `quiet`.
    """
    if quiet:
        yield lambda count: None
        return
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
            print(f"{label}: {done} of {total}, {duration(told - started)}", file=sys.stderr, flush=True)

    yield more


def counts(number: int, one: str) -> str:
    """1 thread, 2 threads."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """0.4 s, 3 s, 38 s, 4 min 52 s, 1 h 05 min; never less than 0 s."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{f'{seconds:.1f}'.removesuffix('.0')} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
