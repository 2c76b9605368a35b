"""Ctrl-C and SIGTERM during training: finish the step, save, then stop."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

HANDLED = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """The run stopped at the end of a step and can be resumed. As a KeyboardInterrupt, it exits with 130."""


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is noted in `wanted`; a second one acts as it always did.

    Outside the main thread, where Python delivers no signals, it only carries `wanted`.
    """

    def __init__(self, *, announce: bool) -> None:
        self.wanted = False
        self._announce = announce
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in HANDLED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True
        self._restore()
        if self._announce:
            os.write(2, b"\nStopping after this step; the run will be saved. Once more stops at once.\n")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
