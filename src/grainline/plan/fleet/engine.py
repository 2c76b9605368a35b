"""One replica as it serves: continuous batching, prompts read in chunks beside running sequences, memory reserved.

Between arrivals, steps of the same running sequences are taken together, so that an hour of a busy replica takes
seconds. Contexts are those of the mean sequence, as the cost model has them.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from grainline.plan.serving.step import Chunk
from grainline.plan.serving.throughput import Size
from grainline.plan.serving.times import Times


@dataclass
class Served:
    """A request on its way; times are absolute seconds."""

    arrival: float
    bucket: int
    size: Size
    kind: int = -1  # the type that serves it
    first: float = -1.0  # its first token
    last: float = -1.0
    read: int = 0  # new prompt tokens so far

    @property
    def ttft_seconds(self) -> float:
        """Time to first token."""
        return self.first - self.arrival

    @property
    def tpot_seconds(self) -> float:
        """Time per output token after the first; 0 where there is one only."""
        return (self.last - self.first) / (self.size.output - 1) if self.size.output > 1 else 0.0


@dataclass
class Engine:
    """One replica, advanced from arrival to arrival."""

    times: Times
    clock: float = 0.0
    busy_seconds: float = 0.0
    waiting: deque[Served] = field(default_factory=deque)
    reading: deque[Served] = field(default_factory=deque)
    load: float = 0.0  # of requests that aren't finished, as the router counts it
    _running: list[tuple[int, int, Served]] = field(default_factory=list)  # by the step after which they are finished
    _step: int = 0
    _contexts: float = 0.0
    _reserved: float = 0.0
    _count: int = 0
    _weight: dict[int, float] = field(default_factory=dict)

    def take(self, request: Served, weight: float) -> None:
        """Queue a request that weighs so much for the router."""
        self.waiting.append(request)
        self.load += weight
        self._weight[id(request)] = weight

    def advance(self, until: float) -> None:
        """Serve up to a time; a step that is running then is finished first."""
        while self.clock < until:
            self._admit()
            if self.reading:
                self._mixed_step()
            elif self._running:
                self._plain_steps(until)
            else:
                self.clock = self.clock if math.isinf(until) else until
                return

    def _admit(self) -> None:
        """First come, first served, as long as memory holds it whole."""
        replica = self.times.replica
        while self.waiting:
            held = replica.held_tokens(self.waiting[0].size.context)
            full = len(self._running) + len(self.reading) >= replica.most_sequences
            if full or self._reserved + held > replica.cache_tokens:
                return
            self._reserved += held
            self.reading.append(self.waiting.popleft())

    def _mixed_step(self) -> None:
        left, chunks, ended = self.times.replica.chunk_tokens, [], []
        for request in self.reading:
            total = request.size.input - request.size.cached
            new = min(left, total - request.read)
            chunks.append(Chunk(new, request.size.cached + request.read))
            request.read += new
            left -= new
            if request.read == total:
                ended.append(request)
            if left == 0:
                break
        b = len(self._running)
        seconds = self.times.step(b, self._contexts / b if b else 0.0, *chunks)
        self._pass(seconds, 1)
        for request in ended:
            self.reading.popleft()
            request.first = request.last = self.clock
            if request.size.output == 1:
                self._finish(request)
                continue
            self._count += 1
            self._contexts += request.size.input + 1
            heapq.heappush(self._running, (self._step + request.size.output - 1, self._count, request))

    def _plain_steps(self, until: float) -> None:
        b, steps = len(self._running), self._running[0][0] - self._step
        context = self._contexts / b
        seconds = self.times.step(b, context + (steps - 1) / 2)
        if self.clock + steps * seconds > until:
            each = self.times.step(b, context)
            steps = min(steps, max(1, int((until - self.clock) / each) + 1))
            seconds = self.times.step(b, context + (steps - 1) / 2)
        self._pass(seconds * steps, steps)

    def _pass(self, seconds: float, steps: int) -> None:
        """Time goes by, running sequences grow, and some are finished."""
        self.clock += seconds
        self.busy_seconds += seconds
        self._step += steps
        self._contexts += steps * len(self._running)
        while self._running and self._running[0][0] <= self._step:
            request = heapq.heappop(self._running)[2]
            self._contexts -= request.size.context
            request.last = self.clock
            self._finish(request)

    def _finish(self, request: Served) -> None:
        self._reserved -= self.times.replica.held_tokens(request.size.context)
        self.load -= self._weight.pop(id(request))
