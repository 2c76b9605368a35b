"""Passes: how long the forwards and backwards of a step take in a pipeline of unlike ranks, in closed form.

Tests hold these against schedules that are played event by event.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grainline.plan.layouts.estimate import Floats
from grainline.plan.layouts.pricing import COMPUTE, EXPERT, FORWARD, WEIGHTS
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.rows import between
from grainline.plan.layouts.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Passes:
    """Of a step. The slowest rank computes m micro-batches one after another; the rest comes on top."""

    slowest: int
    total: Floats  # by rank, seconds of a micro-batch
    forward: Floats  # of these, the forward's
    bubble: float
    messages: float
    messages_inside: float  # of these, inside nodes


def passes(problem: Problem, st: Strategy, of_rank: Floats, m: int) -> Passes:
    """`of_rank` is [pipeline ranks, fields of Cell], of a micro-batch in all chunks of a rank."""
    total, forward = of_rank[:, COMPUTE : EXPERT + 1].sum(1), of_rank[:, FORWARD]
    slowest = int(total.argmax())
    if st.pipeline == 1:
        return Passes(slowest, total, forward, 0.0, 0.0, 0.0)
    sent, inside = _messages(problem, st)
    often = rounds(st.schedule, st.pipeline, m, problem.engine.overlaps_pipeline)
    waits = bubble(st.schedule, st.chunks, forward, total - forward, of_rank[:, WEIGHTS], m)
    sent, inside = (often * each for each in (sent, inside))
    return Passes(slowest, total, forward, waits, sent, inside)


def bubble(schedule: str, chunks: int, forward: Floats, backward: Floats, weights: Floats, m: int) -> float:
    """Seconds that the slowest rank waits, messages left out: for the first micro-batch to come and the last gradient.

    Of each rank the seconds of one micro-batch in all its chunks; `weights` is a part of `backward`.
    """
    both = forward + backward
    most, others = float(both.max()), float(both.sum() - both.max())
    match schedule:
        case "gpipe":  # forwards first: the slowest rank of each kind decides
            return others + (m - 1) * (float(forward.max() + backward.max()) - most)
        case "interleaved":
            return others / chunks
        case "zb-h1":  # weights' gradients hold up nobody, and fill as much (arXiv 2401.10241, section 2.2)
            return max(0.0, others - 2 * float(weights.sum() - weights[both.argmax()]))
    return _one_forward_one_backward(forward, backward, m) - m * most


def _one_forward_one_backward(forward: Floats, backward: Floats, m: int) -> float:
    """Seconds until the rank ends that has most to wait for and to do.

    Rank s gets its first micro-batch when those before it have passed it on, and its last gradient has to go through
    them. Its first gradient comes back after all later ranks, S = Σ (f + b), while it does k = min(m, p − s) − 1 more
    forwards; the gradient of its last forward takes as long, while it does k backwards.
    """
    both = forward + backward
    before = both.cumsum() - both
    later = both.sum() - before - both
    k = np.minimum(m, len(both) - np.arange(len(both))) - 1
    waits = np.maximum(0.0, later - k * forward) + np.maximum(0.0, later - k * backward)
    return float((before + m * both + waits).max())


def rounds(schedule: str, ranks: int, m: int, overlaps: bool) -> float:
    """How often the round trip of messages through the pipeline is on the critical path.

    In 1F1B a rank can't go on without a gradient that has gone there and back, once for each p micro-batches (arXiv
    2405.18093, section 4). Where all forwards come first, or more of them than the way needs as with several chunks,
    those that follow are waited for only if receives aren't posted ahead (`overlaps`).
    """
    if schedule == "gpipe":
        return 1.0 if overlaps else 1 + (m - 1) / (ranks - 1)
    if overlaps and schedule == "interleaved":
        return 1.0
    # Of a zero-bubble schedule's messages, weights' gradients hide about half.
    return max(1.0, m / ranks * (0.5 if overlaps and schedule == "zb-h1" else 1.0))


def _messages(problem: Problem, st: Strategy) -> tuple[float, float]:
    """Seconds of a round trip through all stages, and what of it goes inside nodes."""
    key = ("messages", st.tensor, st.width, st.pipeline, st.chunks, st.sequences, st.context, st.sequence_parallel)
    found = problem.memo.get(key)
    if found is None:
        found = problem.memo[key] = _round_trip(problem, st)
    assert isinstance(found, tuple)
    return found


def _round_trip(problem: Problem, st: Strategy) -> tuple[float, float]:
    """With scatter and gather each tensor-parallel rank sends its share, and the receivers put it together."""
    here = problem.width * st.sequences * problem.length / st.context * problem.shape.hidden
    split = st.tensor > 1 and (st.sequence_parallel or problem.engine.scatters)
    gathered = 0.0
    if split and not st.sequence_parallel:
        gathered = problem.fleet.ring(st.tensor, 1, 0, st.ranks).gather(here)
    count = here / st.tensor if split else here
    *steps, back = between(problem.fleet, st)
    once = sum(ring.hop(count) for ring in steps)
    # Between the chunks of an interleaved pipeline the last rank sends to the first.
    trip = 2 * (once * st.chunks + back.hop(count) * (st.chunks - 1))
    hops = len(steps) * st.chunks + st.chunks - 1
    inside = sum(ring.hop(count) for ring in steps if ring.nodes == 1) * st.chunks * 2
    return trip + 2 * hops * gathered, inside + 2 * hops * gathered
