"""What a person sees while a run goes on: a live line on a terminal, plain lines where there is none, and log.txt."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from grainline._progress import PLAIN_SECONDS, duration


class Reporter:
    """Speaks for one run, on standard error; `log` gets the plain lines too, with times."""

    def __init__(
        self,
        steps: int,
        log: Path | None = None,
        *,
        quiet: bool = False,
        in_words: Callable[[dict[str, Any]], str] | None = None,
    ) -> None:
        self._steps = steps
        self._in_words = in_words or describe
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._log: TextIO | None = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            self._log = log.open("a", encoding="utf-8")
        self._live: Progress | None = None
        self._task: Any = None
        self._last_plain = float("-inf")

    def say(self, text: str) -> None:
        """One remark."""
        if self._log is not None:
            self._log.write(f"{datetime.now().isoformat(timespec='seconds')} {text}\n")
            self._log.flush()
        if self._quiet:
            return
        if self._live is not None:
            self._live.console.print(text, soft_wrap=True)
        elif self._console.is_terminal:
            self._console.print(text, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def step(self, line: dict[str, Any], seconds_left: float) -> None:
        """One step's metrics; shown live, or every few seconds."""
        text, left = self._in_words(line), f"{duration(round(seconds_left))} left"
        if self._console.is_terminal and not self._quiet:
            if self._live is None:
                self._live = live_line(self._console)
                self._live.start()
                self._task = self._live.add_task("", total=self._steps, fields="")
            self._live.update(self._task, completed=line["step"], fields=f"{left}  {text}")
        if time.monotonic() - self._last_plain >= PLAIN_SECONDS or line["step"] == self._steps:
            self._last_plain = time.monotonic()
            plain = f"step {line['step']}/{self._steps}  {text}  {left}"
            if self._live is None:
                self.say(plain)
            elif self._log is not None:
                self._log.write(f"{datetime.now().isoformat(timespec='seconds')} {plain}\n")
                self._log.flush()

    def close(self) -> None:
        """End the live line and the log."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._log is not None:
            self._log.close()
            self._log = None


def live_line(console: Console) -> Progress:
    """A bar, steps, and what the task's `fields` say, always in one line: a narrow terminal first gets less of the bar.

    Two lines would wipe out what is written between two refreshes, as at Ctrl-C.
    """
    return Progress(BarColumn(bar_width=20), _Words(Column(no_wrap=True)), console=console, transient=True)


class _Words(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:.0f}/{task.total:.0f}  {task.fields['fields']}")


def describe(line: dict[str, Any]) -> str:
    """A step's metrics in one line of text."""
    parts = [f"loss {line['loss']:.3f}", f"{line['bits_per_byte']:.3f} bits/byte"]
    parts.append(f"{line['tokens_per_second']:,.0f} tok/s")
    if line.get("mfu") is not None:
        parts.append(f"MFU {line['mfu']:.0%}")
    if line.get("imbalance"):
        parts.append(f"imbalance {max(line['imbalance']):.2f}")
    if line.get("costless"):
        parts.append(f"costless {sum(line['costless']) / len(line['costless']):.0%}")
    if any(line.get("idle", ())):
        parts.append(f"idle {max(line['idle']):.0%}")
    return "  ".join(parts)
