"""Collectives of a rank on a stream of their own: a thread carries them out one after another, beside compute."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field

from grainline.parallel.pipeline.failure import PipelineError, Watch
from grainline.parallel.pipeline.record import Span
from grainline.schedule import Action


@dataclass
class CollectiveStream:
    """Runs collectives in the order in which they are given to it; `taken` are notes of when they ran."""

    watch: Watch
    timeout_seconds: float
    taken: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="collectives")
        self._running: list[tuple[Action, Future[None]]] = []

    def run(self, action: Action, collective: Callable[[], None]) -> Future[None]:
        """Start as soon as those before have ended; `finish` waits for it if nobody did before."""
        taken = self.taken

        def noted() -> None:
            begin = time.perf_counter()
            collective()
            taken.append(Span(action, begin, time.perf_counter()))

        running = self._thread.submit(noted)
        self._running.append((action, running))
        return running

    def ended(self, action: Action, running: Future[None], wanted_by: str) -> None:
        """Wait for a collective. Raises PipelineError where it doesn't end."""
        try:
            running.result(self.timeout_seconds)
        except (RuntimeError, FutureTimeoutError) as error:
            self.watch.failed(str(action), error)
            why = str(error) or f"after {self.timeout_seconds:g} s"
            text = f"Rank {self.watch.rank} stopped at {wanted_by}: {action} hasn't ended ({why})."
            raise PipelineError(f"{text} A rank has died or hangs. Start all of them again.") from error

    def finish(self) -> None:
        """Wait for all."""
        for action, running in self._running:
            self.ended(action, running, "the end of the step")
        self._running.clear()

    def clear(self) -> None:
        """Begin a step."""
        self._running.clear()
        self.taken = []

    def close(self) -> None:
        """End the thread, when what it has is done."""
        self._thread.shutdown(cancel_futures=True)
