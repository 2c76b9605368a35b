"""Requests played against a fleet: Poisson arrivals, a router by planned shares and then the least loaded replica.

What is reported is the share of requests within the objectives, and the tail of TTFT and TPOT, not their means.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grainline.documents import GrainlineError
from grainline.documents.traffic import At, Bucket
from grainline.plan.fleet.engine import Engine, Served
from grainline.plan.fleet.profile import Profile, size_of
from grainline.plan.fleet.solve import Fleet
from grainline.plan.serving.throughput import Objective, Size

Sizes = Literal["inside", "upper", "mean"]
"""Of simulated requests: anywhere inside their bucket, or all at the size that stands for it."""
EDGE = 0.1
"""Of the requests at either end are left out: the fleet fills up, and empties."""


@dataclass(frozen=True)
class Played:
    """What came of it. Quantiles are of requests, in seconds."""

    requests: int  # that count
    within: float  # share that met both objectives
    within_tpot: float
    within_ttft: float
    tpot_seconds: tuple[float, float, float]  # median, 99 %, 99.9 %
    ttft_seconds: tuple[float, float, float]
    busy: tuple[float, ...]  # by type: share of the time in which a replica computes
    by_bucket: tuple[tuple[int, float], ...]  # requests, and their share within
    seconds: float  # of arrivals


class Router:
    """Shares of each bucket by type, met as closely as whole requests allow; then the least loaded replica."""

    def __init__(self, fleet: Fleet, engines: Sequence[Sequence[Engine]]) -> None:
        self.fleet, self.engines = fleet, engines
        self.sent = [[0] * len(engines) for _ in fleet.slices]

    def send(self, request: Served) -> None:
        """Queue a request where it belongs."""
        shares, sent = self.fleet.shares(request.bucket), self.sent[request.bucket]
        total = sum(sent) + 1
        kind = max(range(len(shares)), key=lambda g: shares[g] * total - sent[g])
        sent[kind] += 1
        request.kind = kind
        for engine in self.engines[kind]:
            engine.advance(request.arrival)
        weight = 1 / self.fleet.problem.throughput[kind][request.bucket]
        min(self.engines[kind], key=lambda engine: engine.load).take(request, weight)


def play(
    profile: Profile,
    fleet: Fleet,
    *,
    requests: int = 4000,
    seed: int = 0,
    sizes: Sizes = "inside",
    hit_rate: float = 0.0,
) -> Played:
    """Simulate so many requests. Raises GrainlineError where a type has no cost model to simulate it with."""
    engines: list[list[Engine]] = []
    for kind, count in zip(profile.types, fleet.counts, strict=True):
        if kind.times is None and count:
            raise GrainlineError(f"type '{kind.name}' has measured figures only: no steps to simulate it with.")
        engines.append([Engine(kind.times) for _ in range(count)] if kind.times is not None else [])
    router, draw = Router(fleet, engines), random.Random(seed)
    rate = sum(fleet.problem.rates)
    clock, served = 0.0, []
    for bucket in draw.choices(range(len(profile.buckets)), [b.share for b in profile.buckets], k=requests):
        clock += draw.expovariate(rate)
        served.append(Served(clock, bucket, _drawn(profile.buckets[bucket], sizes, hit_rate, draw)))
    for request in served:
        router.send(request)
    for row in engines:
        for engine in row:
            engine.advance(math.inf)
    return _told(profile, engines, served, clock)


def _drawn(bucket: Bucket, sizes: Sizes, hit_rate: float, draw: random.Random) -> Size:
    if sizes != "inside":
        at: At = sizes
        return size_of(bucket, at, hit_rate)
    tokens_in, tokens_out = (draw.randint(low + 1, high) for low, high in zip(bucket.low, bucket.high, strict=True))
    return Size(tokens_in, tokens_out, min(tokens_in - 1, int(tokens_in * hit_rate)))


def _told(profile: Profile, engines: list[list[Engine]], served: list[Served], seconds: float) -> Played:
    cut = int(len(served) * EDGE)
    kept = served[cut : len(served) - cut] or served
    objective = profile.objective
    counts = [[0, 0] for _ in profile.buckets]
    for request in kept:
        counts[request.bucket][0] += 1
        counts[request.bucket][1] += _in_tpot(request, objective) and _in_ttft(request, objective)
    within = sum(good for _, good in counts)
    busy = tuple(
        sum(engine.busy_seconds / max(engine.clock, seconds) for engine in row) / len(row) if row else 0.0
        for row in engines
    )
    return Played(
        len(kept),
        within / len(kept),
        sum(_in_tpot(r, objective) for r in kept) / len(kept),
        sum(_in_ttft(r, objective) for r in kept) / len(kept),
        _quantiles([r.tpot_seconds for r in kept]),
        _quantiles([r.ttft_seconds for r in kept]),
        busy,
        tuple((n, good / n if n else 1.0) for n, good in counts),
        seconds,
    )


def _in_tpot(request: Served, objective: Objective) -> bool:
    return objective.tpot_seconds is None or request.tpot_seconds <= objective.tpot_seconds


def _in_ttft(request: Served, objective: Objective) -> bool:
    return objective.ttft_seconds is None or request.ttft_seconds <= objective.ttft_seconds


def _quantiles(values: list[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return tuple(ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.5, 0.99, 0.999))  # type: ignore[return-value]
