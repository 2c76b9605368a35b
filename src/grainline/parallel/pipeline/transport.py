"""The `Transport` seam: tensors from one rank of a pipeline to another, in the background."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch.distributed as dist
from torch import Tensor

from grainline.schedule.actions import RECEIVES, SENDS, Action, Kind


@dataclass(frozen=True)
class Message:
    """One message of a schedule, alike at both ends. It may carry several tensors."""

    forward: bool
    source: int
    source_stage: int
    to: int
    to_stage: int
    microbatch: int

    @classmethod
    def of(cls, rank: int, action: Action) -> Message:
        """The message that a send or a receive in the list of `rank` is an end of."""
        here, there = (rank, action.stage), (action.peer, action.peer_stage)
        source, to = (here, there) if action.kind in SENDS else (there, here)
        return cls(action.kind in (Kind.SEND_F, Kind.RECV_F), *source, *to, action.microbatch)


def messages_of(actions: Sequence[Sequence[Action]]) -> list[Message]:
    """All messages of a schedule, in one order on all ranks."""
    ends = SENDS | RECEIVES
    found = {Message.of(rank, a) for rank, actions_ in enumerate(actions) for a in actions_ if a.kind in ends}
    return sorted(found, key=lambda m: (m.microbatch, not m.forward, m.source, m.to, m.source_stage, m.to_stage))


LONGEST = timedelta(days=1)
"""Of a step: whoever wants a message has a patience of its own."""

Channel = tuple[bool, int, int]
"""Forward or not, source, receiver: messages that NCCL keeps in order."""


class Pending(Protocol):
    """Something on its way."""

    def wait(self, timeout: timedelta) -> object:
        """Until it is there, or away; raises RuntimeError if that takes too long or the other end is gone."""
        ...


class Watched:
    """A message of which can be asked whether it is here; gloo can only be waited for, so a thread does."""

    def __init__(self, pending: Pending) -> None:
        self._pending, self._done = pending, threading.Event()
        self._error: RuntimeError | None = None
        threading.Thread(target=self._watch, daemon=True).start()  # it must not keep a process that gives up

    def _watch(self) -> None:
        try:
            self._pending.wait(LONGEST)
        except RuntimeError as error:
            self._error = error
        self._done.set()

    @property
    def is_done(self) -> bool:
        """Whether it is here, or can't come any more."""
        return self._done.is_set()

    def wait(self, timeout: timedelta) -> None:
        """See `Pending`."""
        if not self._done.wait(timeout.total_seconds()):
            raise RuntimeError("timed out")
        if self._error is not None:
            raise self._error


class Transport(Protocol):
    """Both ends post their messages and go on; whoever needs one waits for it."""

    def send(self, message: Message, tensors: Sequence[Tensor]) -> list[Pending]:
        """Start to send contiguous tensors, which must stay as they are until that is done."""
        ...

    def receive(self, message: Message, into: Sequence[Tensor]) -> list[Pending]:
        """Start to receive into contiguous tensors of the same shapes and dtypes."""
        ...


class GlooTransport:
    """Between CPUs: every tensor of every message has a tag of its own, so nothing depends on the order of posting.

    gloo moves the data in a thread of its own, straight from the sender's tensor into the receiver's.
    """

    MOST_TENSORS = 4

    def __init__(self, messages: Iterable[Message], members: Sequence[int], group: dist.ProcessGroup) -> None:
        """`members[r]` is pipeline rank r's place in `group`, which is of gloo."""
        self._tags = {message: i * self.MOST_TENSORS for i, message in enumerate(messages)}
        self._members, self._group = members, group

    def send(self, message: Message, tensors: Sequence[Tensor]) -> list[Pending]:
        """See `Transport`."""
        tag, to = self._tags[message], self._members[message.to]
        return [self._group.send([tensor], to, tag + i) for i, tensor in enumerate(tensors)]

    def receive(self, message: Message, into: Sequence[Tensor]) -> list[Pending]:
        """See `Transport`."""
        tag, source = self._tags[message], self._members[message.source]
        return [self._group.recv([tensor], source, tag + i) for i, tensor in enumerate(into)]


class NcclTransport:
    """Between GPUs. NCCL has no tags: messages of a pair meet in the order in which both ends post them.

    `schedule.add_messages` puts them into one order for each pair and direction, so each has a communicator of its own:
    one direction never waits for the other, nor forward messages for backward ones.
    """

    def __init__(self, channels: Mapping[Channel, tuple[dist.ProcessGroup, int, int]]) -> None:
        """For each channel a communicator, and the places of source and receiver in it; from `nccl_channels`."""
        self._channels = channels

    def send(self, message: Message, tensors: Sequence[Tensor]) -> list[Pending]:
        """See `Transport`."""
        group, _, to = self._channels[message.forward, message.source, message.to]
        return [group.send([tensor], to, 0) for tensor in tensors]

    def receive(self, message: Message, into: Sequence[Tensor]) -> list[Pending]:
        """See `Transport`."""
        group, source, _ = self._channels[message.forward, message.source, message.to]
        return [group.recv([tensor], source, 0) for tensor in into]


def nccl_channels(
    messages: Iterable[Message], members: Sequence[int]
) -> dict[Channel, tuple[dist.ProcessGroup, int, int]]:
    """Communicators for the messages of one replica; `members[r]` is the world rank of pipeline rank r.

    All ranks of the world must call this, for all replicas in the same order.
    """
    channels = {}
    for forward, source, to in sorted({(m.forward, m.source, m.to) for m in messages}):
        pair = [members[source], members[to]]
        group = dist.new_group(pair, backend="nccl")
        places = (0, 1) if pair[0] < pair[1] else (1, 0)  # a group has its members in order of world rank
        channels[forward, source, to] = (group, *places)
    return channels
