"""The most requests a second of one size that a replica serves within its objectives.

At a rate λ of requests with I tokens in and O out, b of them are running. Each lasts O − 1 steps of τ seconds on
average, so λ(b) = b / ((O − 1) · τ(b)), and the largest b that memory and the objectives allow gives the throughput.

k = b / (O − 1) prompts come in each step. A share f of steps has any of them, at most `chunk_tokens` of their tokens:
f = max(1 − exp(−k), k·I / chunk), and τ = (1 − f) · step(b) + f · step(b, k·I / f new tokens).

*TPOT*, time per output token: from a request's first token to its last, over O − 1. *TTFT*, time to first token: from
arrival to the first token. It is the rest of a running step, the wait for other prompts (as in an M/D/1 queue, where
the server's rate is a chunk a step), and the steps of its own prompt.

Objectives are kept by a share of requests (`quantile`), or by the mean. How many run at once swings (`crowd`): what
isn't passed in that share of time must be within the objectives and, where there is one for TTFT, fit into memory, so
that nobody waits for others to end. Replicas are taken one by one; a router over many of them does better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from grainline.documents import GrainlineError
from grainline.plan.serving.crowd import Crowd
from grainline.plan.serving.times import Times, chunks_of

Limit = Literal["memory", "TPOT", "TTFT", "sequences"]
STEPS = 30  # of bisection
FEWEST = 1e-3  # running at once: a request alone, nearly always


@dataclass(frozen=True)
class Objective:
    """What a request may take; None: no limit. `quantile` of requests keep it, None: their mean does."""

    tpot_seconds: float | None = None
    ttft_seconds: float | None = None
    quantile: float | None = 0.99

    def __post_init__(self) -> None:
        for name, seconds in (("TPOT", self.tpot_seconds), ("TTFT", self.ttft_seconds)):
            if seconds is not None and not 0 < seconds < math.inf:
                raise GrainlineError(f"an objective of {seconds:g} s for {name}: it must be positive.")
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise GrainlineError(f"a share of {self.quantile:g} of requests: it must lie between 0 and 1.")


@dataclass(frozen=True)
class Size:
    """Of a request. `cached` prompt tokens are known from other requests."""

    input: int
    output: int
    cached: int = 0

    @property
    def context(self) -> int:
        """Positions at its end."""
        return self.input + self.output


@dataclass(frozen=True)
class Load:
    """What so many running requests mean."""

    running: float  # on average
    most_running: float  # at the objective's quantile; infinite where requests would wait for others to end
    rate: float  # requests per second
    tpot_seconds: float
    ttft_seconds: float
    stable: bool = True  # as many requests end as come


@dataclass(frozen=True)
class Throughput:
    """`requests_per_second` is 0 where not even one request alone keeps the objectives; `limit` is what binds."""

    requests_per_second: float
    limit: Limit
    alone: Load | None  # one request; None where it doesn't fit
    at: Load | None = None


def crowd_of(times: Times, size: Size) -> Crowd:
    """How many requests of a size run at once, at any rate."""
    replica = times.replica
    most = min(replica.most_sequences, int(replica.cache_tokens / replica.held_tokens(size.context)))
    return Crowd(lambda n: _step(times, size, n).seconds, max(size.output, 2), max(most, 1))


def load(times: Times, size: Size, running: float, objective: Objective, crowd: Crowd) -> Load:
    """TPOT and TTFT with so many running on average, at the objective's quantile."""
    mean = _step(times, size, running)
    rate = running / ((max(size.output, 2) - 1) * mean.seconds)
    most, tail = running, mean
    if objective.quantile is not None and rate > 0:
        most = crowd.at_most(rate, objective.quantile)
        tail = _step(times, size, max(most, running) if math.isfinite(most) else crowd.most)
    first = _first(times, size, tail, mean.chunks, objective.quantile)
    return Load(running, most, rate, tail.seconds, first if math.isfinite(most) else math.inf, crowd.is_stable(rate))


@dataclass(frozen=True)
class _Step:
    seconds: float  # of a step on average; infinite where prompts come faster than they are read
    with_prompts: float  # of a step that has some
    running: float
    chunks: float  # of prompts that come in a step


def _step(times: Times, size: Size, running: float) -> _Step:
    replica, new = times.replica, max(size.input - size.cached, 1)
    b, most = max(running, 1.0), replica.chunk_tokens
    prompts = running / (max(size.output, 2) - 1)
    context = size.input + size.output / 2
    plain = times.step(b, context)
    chunks = prompts * new / most
    share = max(-math.expm1(-prompts), chunks)
    if chunks >= 1:
        return _Step(math.inf, math.inf, b, chunks)
    attention = sum(times.prefill(chunk) for chunk in chunks_of(new, size.cached, most)) * prompts / share
    loaded = replica.speed.step_seconds + times.dense(b + prompts * new / share) + times.decode(b, context) + attention
    return _Step((1 - share) * plain + share * loaded, loaded, b, chunks)


def _first(times: Times, size: Size, tail: _Step, chunks: float, quantile: float | None) -> float:
    """TTFT: `chunks` of prompts come in a step on average."""
    if math.isinf(tail.seconds):
        return math.inf
    replica, new = times.replica, max(size.input - size.cached, 1)
    context = size.input + size.output / 2
    own_chunks = chunks_of(new, size.cached, replica.chunk_tokens)
    own = sum(max(tail.with_prompts, times.step(tail.running, context, chunk)) for chunk in own_chunks)
    full = replica.speed.step_seconds + times.dense(tail.running + replica.chunk_tokens)
    served = new / replica.chunk_tokens * max(full, tail.with_prompts)
    wait = chunks * served / (2 * (1 - chunks))
    if quantile is not None and chunks > 0:
        wait *= max(1.0, math.log(chunks / (1 - quantile)) / chunks)
    return own + tail.seconds + wait


def throughput(times: Times, size: Size, objective: Objective) -> Throughput:
    """The largest rate within the objectives; what limits it, and what one request alone takes."""
    replica = times.replica
    if size.input < 1 or size.output < 1 or not 0 <= size.cached < size.input:
        raise GrainlineError(
            f"a request of {size.input} tokens in, {size.cached} of them cached, and {size.output} out."
        )
    held = replica.held_tokens(size.context)
    if replica.cache_tokens < held:
        return Throughput(0.0, "memory", None)
    crowd = crowd_of(times, size)
    full: Limit = "sequences" if crowd.most == replica.most_sequences else "memory"
    alone = load(times, size, FEWEST, objective, crowd)
    missed = _missed(alone, objective, full)
    if missed is not None:
        return Throughput(0.0, missed, alone)
    top = load(times, size, crowd.most, objective, crowd)
    limit = _missed(top, objective, full)
    if limit is None:
        return Throughput(top.rate, full, alone, top)
    low, high, found = math.log(FEWEST), math.log(crowd.most), alone
    for _ in range(STEPS):
        middle = (low + high) / 2
        at = load(times, size, math.exp(middle), objective, crowd)
        missed = _missed(at, objective, full)
        if missed is None:
            low, found = middle, at
        else:
            high, limit = middle, missed
    return Throughput(found.rate, limit, alone, found)


def _missed(at: Load, objective: Objective, full: Limit) -> Limit | None:
    waits = math.isinf(at.most_running) and objective.ttft_seconds is not None
    if waits or not at.stable:
        return full
    if objective.tpot_seconds is not None and at.tpot_seconds > objective.tpot_seconds:
        return "TPOT"
    return "TTFT" if objective.ttft_seconds is not None and at.ttft_seconds > objective.ttft_seconds else None
