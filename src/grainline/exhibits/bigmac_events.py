"""One expert layer of BigMac's cluster, message by message: 4 machines of 8 GPUs, PCIe 4.0 ×16, one 100 Gb/s port each.

Every GPU sends each other one its part of an all-to-all, and gets it back; flows share ports and lanes max–min fairly.
Times of messages are the cluster's. Times of products come from the printed share of all-to-alls in a fine-grained
step, since the paper doesn't say of which model and batch those shares are: only ratios are to be read here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from grainline.plan.bottleneck import Sizes

MACHINES, GPUS = 4, 8
RANKS = MACHINES * GPUS
LANE_BYTES = 25e9  # per second and direction, of PCIe 4.0 ×16, as measured elsewhere: 31.5 GB/s less what packets cost
PORT_BYTES = 12.5e9  # of 100 Gb/s InfiniBand, per machine and direction
LATENCY_SECONDS = 5e-6  # of a message
BATCH_TOKENS = 64 * 2048
FORWARD_SHARE = 1 / 3  # of a step's products


@dataclass(frozen=True)
class Pass:
    """Forward or backward of one layer: bytes from a GPU to each other one, and seconds of products."""

    pair_bytes: float
    rest_seconds: float  # attention, router, norms, and where there are any a bottleneck's projections
    expert_seconds: float
    chunks: int = 1  # that rows travel in; experts work on one while the next is on its way


def seconds_of(one: Pass) -> float:
    """Makespan of the pass over all GPUs, by the simulator."""
    from grainline.schedule import Action, Kind, TaskGraph, simulate
    from grainline.schedule.simulator.graph import Link, Memory, Ragged

    links = [Link(f"GPU {rank} {way}", LANE_BYTES) for rank in range(RANKS) for way in ("out", "in")]
    links += [Link(f"machine {machine} {way}", PORT_BYTES) for machine in range(MACHINES) for way in ("out", "in")]
    stream: list[int] = []
    seconds: list[float] = []
    moved: list[float] = []
    crosses: list[list[int]] = []
    needs: list[list[int]] = []

    def compute(rank: int, lasting: float, after: list[int]) -> int:
        return add(rank, lasting, 0.0, [], after)

    def send(source: int, target: int, back: bool, after: list[int]) -> int:
        """There and back have streams of their own, so that chunks follow each other both ways."""
        route = [2 * source, 2 * target + 1]
        here, there = source // GPUS, target // GPUS
        if here != there:
            route += [2 * RANKS + 2 * here, 2 * RANKS + 2 * there + 1]
        lane = RANKS * (1 + source + RANKS * back) + target
        return add(lane, LATENCY_SECONDS, one.pair_bytes / one.chunks, route, after)

    def add(on: int, lasting: float, size: float, route: list[int], after: list[int]) -> int:
        stream.append(on)
        seconds.append(lasting)
        moved.append(size)
        crosses.append(route)
        needs.append(after)
        return len(stream) - 1

    everyone = range(RANKS)
    routed = [compute(rank, one.rest_seconds, []) for rank in everyone]
    for _ in range(one.chunks):
        there = {(a, b): send(a, b, False, [routed[a]]) for a in everyone for b in everyone if a != b}
        arrived = [[there[a, b] for a in everyone if a != b] for b in everyone]
        done = [compute(rank, one.expert_seconds / one.chunks, arrived[rank]) for rank in everyone]
        for a in everyone:
            for b in everyone:
                if a != b:
                    send(a, b, True, [done[a]])
    streams = [f"GPU {rank}" for rank in everyone]
    streams += [f"{a} to {b}, {way}" for way in ("there", "back") for a in everyone for b in everyone]
    graph = TaskGraph(
        streams=tuple(streams),
        links=tuple(links),
        tiers=(),
        base_bytes=np.zeros(0),
        stream=np.array(stream, np.int32),
        seconds=np.array(seconds),
        bytes=np.array(moved),
        crosses=Ragged.of(crosses),
        needs=Ragged.of(needs),
        memory=Memory.none(),
        actions=tuple(Action(Kind.SEND_F if size else Kind.F) for size in moved),
        rank=np.array([on if on < RANKS else (on // RANKS - 1) % RANKS for on in stream], np.int32),
    )
    return simulate(graph).makespan


@dataclass(frozen=True)
class Step:
    """A layer's part of a step, both passes, in seconds: with fine-grained experts, and behind a bottleneck."""

    plain: float
    narrow: float
    gain: float  # of the all-to-alls alone

    @property
    def speed_up(self) -> float:
        """How many times as fast."""
        return self.plain / self.narrow


def step(of: Sizes, share: float, added: float, chunks: int = 1) -> Step:
    """share: of a fine-grained step without chunks, in all-to-alls; added: what a bottleneck adds, of its products."""
    pair = 2.0 * BATCH_TOKENS / RANKS * of.top_k * of.hidden / RANKS
    plain, narrow = (seconds_of(Pass(bytes_, 0.0, 0.0)) for bytes_ in (pair, pair * of.ratio))
    products = 2 * plain * (1 - share) / share
    rest = 2 + of.sequence / of.hidden + of.vocabulary / (2 * of.layers * of.hidden)
    experts = products * of.ratio * of.top_k / (rest + of.ratio * of.top_k)

    def both(pair_bytes: float, outside: float) -> float:
        whole = Pass(pair_bytes, outside, experts, chunks)
        shares = (FORWARD_SHARE, 1 - FORWARD_SHARE)
        return sum(
            seconds_of(replace(whole, rest_seconds=part * outside, expert_seconds=part * experts)) for part in shares
        )

    outside = products - experts
    return Step(both(pair, outside), both(pair * of.ratio, outside + added * products), plain / narrow)
