"""A rank's messages of a step: posted where its list has them, waited for where they are used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from torch import Tensor

from grainline.parallel.pipeline.failure import Watch
from grainline.parallel.pipeline.record import Span
from grainline.parallel.pipeline.transport import Message, Pending, Transport, Watched
from grainline.schedule import Action, Kind, Schedule
from grainline.schedule.actions import RECEIVES, SENDS


@dataclass(frozen=True)
class Arrival:
    """Tensors that are on their way to this rank, by the receive `action`, or here already."""

    tensors: Sequence[Tensor]
    pending: Sequence[Pending] = ()
    action: Action | None = None

    @property
    def is_here(self) -> bool:
        """Whether nothing need be waited for, as far as that can be told: of what is watched, or was made here."""
        return all(isinstance(pending, Watched) and pending.is_done for pending in self.pending)


@dataclass(frozen=True)
class _Sent:
    """A message under way. The receiver has used it when its list is past `used_at`."""

    action: Action
    pending: Sequence[Pending]
    tensors: Sequence[Tensor]  # must stay as they are until then
    used_at: int


@dataclass
class Mail:
    """Sends and receives of one rank; `taken` are notes of when receives were waited for, and had come."""

    schedule: Schedule
    rank: int
    transport: Transport
    watch: Watch
    timeout_seconds: float
    keeps_order: bool = True  # backwards are in the list's order, on all ranks
    taken: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        actions = self.schedule.actions
        ends = SENDS | RECEIVES
        self._message = {a: Message.of(self.rank, a) for a in actions[self.rank] if a.kind in ends}
        self._used_at = {a: self._use(a) for a in self._message if a.kind in SENDS}
        self._sent_at = self._peers_sends()
        self._sending: dict[int, list[_Sent]] = {}

    def _use(self, send: Action) -> int:
        """Where the receiver's list uses a message."""
        kinds = (Kind.F,) if send.kind is Kind.SEND_F else (Kind.B, Kind.I)
        stage, m = send.peer_stage, send.microbatch
        theirs = enumerate(self.schedule.actions[send.peer])
        return next(i for i, a in theirs if a.kind in kinds and (a.stage, a.microbatch) == (stage, m))

    def _peers_sends(self) -> dict[Message, int]:
        """Where the lists of others have the sends to this rank."""
        found = {}
        for rank, actions in enumerate(self.schedule.actions):
            for i, a in enumerate(actions):
                if a.kind in SENDS and a.peer == self.rank:
                    found[Message.of(rank, a)] = i
        return found

    def send(self, action: Action, tensors: Sequence[Tensor]) -> None:
        """Post a send."""
        tensors = [t.contiguous() for t in tensors]
        pending = self.transport.send(self._message[action], tensors)
        self._sending.setdefault(action.peer, []).append(_Sent(action, pending, tensors, self._used_at[action]))

    def receive(self, action: Action, into: Sequence[Tensor]) -> Arrival:
        """Post a receive."""
        pending: Sequence[Pending] = self.transport.receive(self._message[action], into)
        if not self.keeps_order and action.kind is Kind.RECV_B:
            pending = [Watched(one) for one in pending]
        return Arrival(into, pending, action)

    def take(self, arrival: Arrival, wanted_by: Action) -> tuple[Tensor, ...]:
        """Wait until tensors have come. Raises PipelineError where they don't."""
        if arrival.action is None:
            return tuple(arrival.tensors)
        begin = time.perf_counter()
        for pending in arrival.pending:
            self._wait(pending, arrival.action, f"{wanted_by} ({arrival.action})")
        self.taken.append(Span(arrival.action, begin, time.perf_counter()))
        self._let_go(arrival.action)
        return tuple(arrival.tensors)

    def _let_go(self, received: Action) -> None:
        """What the peer had used before it sent this has gone: its tensors needn't be kept any more."""
        if not self.keeps_order:
            return
        at = self._sent_at[self._message[received]]
        kept = []
        for sent in self._sending.get(received.peer, ()):
            if sent.used_at < at:
                for pending in sent.pending:
                    self._wait(pending, sent.action, str(sent.action))
            else:
                kept.append(sent)
        self._sending[received.peer] = kept

    def finish(self) -> None:
        """Wait for all that is under way from here."""
        for of_peer in self._sending.values():
            for sent in of_peer:
                for pending in sent.pending:
                    self._wait(pending, sent.action, str(sent.action))
        self._sending.clear()

    def clear(self) -> None:
        """Begin a step."""
        self._sending.clear()
        self.taken = []

    def _wait(self, pending: Pending, action: Action, what: str) -> None:
        try:
            pending.wait(timedelta(seconds=self.timeout_seconds))
        except RuntimeError as error:
            raise self.watch.waited(what, action.peer, error) from error
