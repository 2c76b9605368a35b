"""The most requests a second of one size that a replica serves within its objectives.

At a rate λ of requests with I tokens in and O out, b of them are running. Each lasts O − 1 steps of τ seconds on
average, so λ(b) = b / ((O − 1) · τ(b)), and the largest b that memory and the objectives allow gives the throughput.

k = b / (O − 1) prompts come in each step. A share f of steps has any of them, at most `chunk_tokens` of their tokens:
f = max(1 − exp(−k), k·I / chunk), and τ = (1 − f) · step(b) + f · step(b, k·I / f new tokens).

*TPOT*, time per output token: from a request's first token to its last, over O − 1. *TTFT*, time to first token: from
arrival to the first token. It is the rest of a running step, the wait for other prompts (as in an M/D/1 queue, where
the server's rate is a chunk a step), and the steps of its own prompt.

Objectives are kept by a share of requests (`quantile`), or by the mean. Poisson arrivals make b swing by √b, so the
share's step is τ at b + z·√b, and memory must hold as many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from grainline.documents import GrainlineError
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

    @property
    def deviations(self) -> float:
        """z: how many standard deviations of b are allowed for."""
        return 0.0 if self.quantile is None else max(0.0, NormalDist().inv_cdf(self.quantile))


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

    running: float
    rate: float  # requests per second
    tpot_seconds: float
    ttft_seconds: float


@dataclass(frozen=True)
class Throughput:
    """`requests_per_second` is 0 where not even one request alone keeps the objectives; `limit` is what binds."""

    requests_per_second: float
    limit: Limit
    alone: Load | None  # one request; None where it doesn't fit
    at: Load | None = None


def load(times: Times, size: Size, running: float, objective: Objective) -> Load:
    """TPOT and TTFT with so many running, at the objective's quantile."""
    many = running + objective.deviations * math.sqrt(running)
    mean = _step(times, size, running)
    rate = running / ((max(size.output, 2) - 1) * mean.seconds)
    tail = mean if objective.quantile is None else _step(times, size, many)
    return Load(running, rate, tail.seconds, _first(times, size, tail, mean.chunks, objective.quantile))


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
    alone = load(times, size, FEWEST, objective)
    missed = _missed(alone, objective)
    if missed is not None:
        return Throughput(0.0, missed, alone)
    most = _most(replica.cache_tokens / held, objective)
    limit: Limit = "memory"
    by_sequences = _most(replica.most_sequences, objective)
    if by_sequences < most:
        most, limit = by_sequences, "sequences"
    top = load(times, size, most, objective)
    missed = _missed(top, objective)
    if missed is None:
        return Throughput(top.rate, limit, alone, top)
    low, high = math.log(FEWEST), math.log(most)
    found, limit = alone, missed
    for _ in range(STEPS):
        middle = (low + high) / 2
        at = load(times, size, math.exp(middle), objective)
        missed = _missed(at, objective)
        if missed is None:
            low, found = middle, at
        else:
            high, limit = middle, missed
    return Throughput(found.rate, limit, alone, found)


def _missed(at: Load, objective: Objective) -> Limit | None:
    if objective.tpot_seconds is not None and at.tpot_seconds > objective.tpot_seconds:
        return "TPOT"
    limit = objective.ttft_seconds
    # Without an objective the prompts must still be read as fast as they come.
    return "TTFT" if at.ttft_seconds > (math.inf if limit is None else limit) or math.isinf(at.ttft_seconds) else None


def _most(room: float, objective: Objective) -> float:
    """b with b + z·√b ≤ room."""
    z = objective.deviations
    return max(FEWEST, ((math.sqrt(z * z + 4 * room) - z) / 2) ** 2)
