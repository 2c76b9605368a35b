"""Collectives among threads of one process, and the unsharded truth: what the vocabulary's tests share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from grainline.parallel.pipeline.vocabulary import Exchange, OutputLayer, rows_of
from grainline.schedule.passes.vocabulary import Algorithm

R = TypeVar("R")


@dataclass
class Meeting:
    """Where the threads put what they give."""

    ranks: int
    given: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.given = [torch.empty(0)] * self.ranks
        self.barrier = threading.Barrier(self.ranks, timeout=20)


@dataclass
class ThreadExchange:
    """One thread's end of it."""

    meeting: Meeting
    rank: int

    @property
    def ranks(self) -> int:
        return self.meeting.ranks

    def all_gather(self, x: Tensor) -> Tensor:
        self.meeting.given[self.rank] = x.clone()
        self.meeting.barrier.wait()
        found = torch.stack(self.meeting.given)
        self.meeting.barrier.wait()
        return found

    def all_reduce_(self, x: Tensor) -> None:
        x.copy_(self.all_gather(x).sum(0))


def on_ranks(ranks: int, work: Callable[[Exchange], R]) -> list[R]:
    """The same work on so many ranks at once."""
    meeting = Meeting(ranks)
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(lambda rank: work(ThreadExchange(meeting, rank)), range(ranks)))


@dataclass(frozen=True)
class Answer:
    """What one rank, or the whole layer, makes of its rows."""

    loss_N: Tensor
    d_x_ND: Tensor
    d_w_VD: Tensor


def truth(x_ND: Tensor, w_VD: Tensor, label_N: Tensor, scale_N: Tensor) -> Answer:
    """PyTorch's own cross-entropy and gradients, in float64."""
    x, w = (t.double().requires_grad_() for t in (x_ND, w_VD))
    loss_N = F.cross_entropy(x @ w.t(), label_N, reduction="none", ignore_index=-100)
    (loss_N * scale_N.double()).sum().backward()
    assert x.grad is not None
    assert w.grad is not None
    return Answer(loss_N.detach(), x.grad, w.grad)


def sharded(
    exchange: Exchange, algorithm: Algorithm, x_ND: Tensor, w_VD: Tensor, label_N: Tensor, scale_N: Tensor
) -> Answer:
    """The passes in their order; the gradient of this rank's rows alone."""
    rows = rows_of(w_VD.shape[0], exchange.rank, exchange.ranks)
    shard = torch.nn.Parameter(w_VD[rows.start : rows.stop].clone())
    layer = OutputLayer(shard, rows, algorithm, exchange)
    scoring = layer.s(x_ND, label_N, scale_N)
    layer.c1(scoring)
    layer.t(scoring)
    if algorithm == "vocab1":
        layer.c2(scoring)
    assert scoring.loss_N is not None
    assert scoring.d_x_ND is not None
    assert shard.grad is not None
    return Answer(scoring.loss_N, scoring.d_x_ND, shard.grad)
