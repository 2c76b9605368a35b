"""What messages between two ranks cost here, and what they do to the compute beside them: each measured by itself."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from grainline.parallel.pipeline.connect import Connection

LARGE = 16
PRODUCT = 256  # the side of the matrices whose products are counted


@dataclass(frozen=True)
class Messages:
    """Between two ranks; `overlap_speed` is what is left of a rank's speed while messages come and go."""

    latency_seconds: float
    bytes_per_second: float
    overlap_speed: float


def profile_messages(connection: Connection, message_bytes: int) -> Messages:
    """From messages of 64 bytes and of LARGE times `message_bytes`, whose time is more than that of waking up, and a
    stream of `message_bytes` each beside a product. Both ranks call this.

    Both get the same: the first one's clock, and the slower one's speed.
    """
    small, message, large = (torch.zeros(n) for n in (16, message_bytes // 4, LARGE * message_bytes // 4))
    short, long = (_one_way(connection, tensor) for tensor in (small, large))
    alone = _products(connection, None)
    beside = _products(connection, message)
    mine = short, 4 * large.numel() / max(long - short, 1e-9), min(1.0, beside / alone)
    found = gathered(mine)
    return Messages(found[0][0], found[0][1], min(of[2] for of in found))


def gathered(value: Any) -> list[Any]:
    """Each rank's, by rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def _one_way(connection: Connection, tensor: torch.Tensor, rounds: int = 15) -> float:
    """Median of half a round trip."""
    group, first = connection.group, connection.rank == 0
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        if first:
            group.send([tensor], 1, 1).wait()
            group.recv([tensor], 1, 2).wait()
        else:
            group.recv([tensor], 0, 1).wait()
            group.send([tensor], 0, 2).wait()
        seconds.append((time.perf_counter() - begin) / 2)
    return statistics.median(seconds[1:])


def _products(connection: Connection, beside: torch.Tensor | None, seconds: float = 0.4) -> float:
    """Products per second of this rank, with messages of `beside` going both ways all the time, or none."""
    x_NN = torch.randn(PRODUCT, PRODUCT)
    into = None if beside is None else torch.empty_like(beside)
    dist.barrier()
    begin, count, under_way = time.perf_counter(), 0, list[Any]()
    exchanged = 0
    while time.perf_counter() - begin < seconds:
        if beside is not None and into is not None and all(one.is_completed() for one in under_way):
            under_way = _exchange(connection, beside, into, exchanged)
            exchanged += 1
        x_NN @ x_NN
        count += 1
    rate = count / (time.perf_counter() - begin)
    if beside is not None and into is not None:  # both ends must have posted equally many
        for number in range(exchanged, max(gathered(exchanged))):
            under_way += _exchange(connection, beside, into, number)
        for one in under_way:
            one.wait()
    return rate


def _exchange(connection: Connection, out: torch.Tensor, into: torch.Tensor, number: int) -> list[Any]:
    other = 1 - connection.rank
    return [connection.group.send([out], other, 10 + number), connection.group.recv([into], other, 10 + number)]
