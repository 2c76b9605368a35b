"""Why a task of a timeline began when it did: what it used, and which of that came last.

A timeline has no dependencies, because a measured one can't know them; they follow from actions and order. A
micro-batch goes through its hops one after another, so the hop before is the last one that ended before this began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from grainline.schedule.actions import COLLECTIVES, COMPUTE, SENDS, Action, Kind
from grainline.schedule.simulator.graph import Floats, Ints
from grainline.schedule.timeline import Timeline

BACKWARDS = (Kind.B, Kind.I)
OF_PASSES = {Kind.C1: Kind.S, Kind.C2: Kind.T, Kind.C_EMBED: Kind.EMBED}
AFTER = {Kind.S: Kind.C0, Kind.T: Kind.C1, Kind.EMBED_GRAD: Kind.C_EMBED_GRAD}
OWN = {Kind.W: (Kind.I,), Kind.R: (Kind.F,), Kind.OFFLOAD: (Kind.F,), Kind.FETCH: (Kind.OFFLOAD,)}
SLACK = {"simulated": 1e-9, "measured": 1e-3}  # of the makespan: nearer moments are one, as far as clocks agree


@dataclass(frozen=True)
class Causes:
    """Finds what a task waited for. Make one with `Causes.of(timeline)`."""

    timeline: Timeline
    slack: float
    at: dict[tuple[int, Kind, int, int], int]  # (rank, kind, stage, micro-batch) → task
    to: dict[tuple[int, Kind, int, int], int]  # (receiver, kind of the send, its stage, micro-batch) → message
    all_of: dict[tuple[Kind, int], list[int]]  # (kind, micro-batch) → tasks of all ranks
    compute: tuple[Ints, ...]  # tasks of each rank that occupy it, by beginning
    ends: tuple[Floats, ...]  # when these end
    place: dict[int, int]  # compute task → its place in its rank's list
    stream_before: dict[int, int]  # task → the one before it on its stream

    @classmethod
    def of(cls, timeline: Timeline) -> Causes:
        """Index a timeline once."""
        at: dict[tuple[int, Kind, int, int], int] = {}
        to: dict[tuple[int, Kind, int, int], int] = {}
        all_of: dict[tuple[Kind, int], list[int]] = defaultdict(list)
        for i, (rank, a) in enumerate(zip(timeline.rank.tolist(), timeline.actions, strict=True)):
            at[rank, a.kind, a.stage, a.microbatch] = i
            all_of[a.kind, a.microbatch].append(i)
            if a.kind in SENDS:
                to[a.peer, a.kind, a.peer_stage, a.microbatch] = i
        order = np.lexsort((timeline.end, timeline.start))
        computes = np.array([a.kind in COMPUTE for a in timeline.actions], dtype=bool)
        lists = tuple(order[computes[order] & (timeline.rank[order] == rank)] for rank in range(timeline.ranks))
        place = {task: n for tasks in lists for n, task in enumerate(tasks.tolist())}
        before: dict[int, int] = {}
        last: dict[tuple[int, int], int] = {}
        for task in order.tolist():
            key = int(timeline.rank[task]), int(timeline.stream[task])
            if key in last:
                before[task] = last[key]
            last[key] = task
        ends = tuple(timeline.end[tasks] for tasks in lists)
        return cls(timeline, SLACK[timeline.how] * timeline.makespan, at, to, dict(all_of), lists, ends, place, before)

    def producer(self, message: int) -> int | None:
        """The compute whose result a send carries."""
        action, rank = self.timeline.actions[message], int(self.timeline.rank[message])
        kinds = (Kind.F,) if action.kind is Kind.SEND_F else BACKWARDS
        return self._first(rank, kinds, action.stage, action.microbatch)

    def consumer(self, message: int) -> int | None:
        """The compute at the other end that uses what a send carries."""
        action = self.timeline.actions[message]
        kinds = (Kind.F,) if action.kind is Kind.SEND_F else BACKWARDS
        return self._first(action.peer, kinds, action.peer_stage, action.microbatch)

    def before(self, task: int) -> int | None:
        """The compute before this one on its rank."""
        place = self.place.get(task, 0)
        return int(self.compute[int(self.timeline.rank[task])][place - 1]) if place else None

    def inputs(self, task: int) -> tuple[int, ...]:
        """Tasks whose results this one used, as far as the timeline has them."""
        return tuple(i for i in dict.fromkeys(self._inputs(task)) if i is not None and i != task)

    def binding(self, task: int) -> int | None:
        """The task that this one began after: of its inputs and of what occupied its stream, the last to end."""
        action, start = self.timeline.actions[task], self.timeline.start[task]
        if action.kind in COMPUTE:
            candidates = [self.before(task), *self.inputs(task)]
        else:
            ranks = [int(self.timeline.rank[task]), *([action.peer] if action.peer >= 0 else [])]
            candidates = [*self.inputs(task), self.stream_before.get(task), *(self._occupied(r, start) for r in ranks)]
        known = [c for c in candidates if c is not None and self.timeline.end[c] <= start + self.slack]
        return max(known, key=lambda c: self.timeline.end[c], default=None)

    def _occupied(self, rank: int, until: float) -> int | None:
        """The last compute of a rank that had ended by then."""
        n = int(np.searchsorted(self.ends[rank], until + self.slack, side="right"))
        return int(self.compute[rank][n - 1]) if n else None

    def _inputs(self, task: int) -> Iterator[int | None]:
        action, rank = self.timeline.actions[task], int(self.timeline.rank[task])
        kind, stage, m = action.kind, action.stage, action.microbatch
        if kind in SENDS:
            yield self.producer(task)
        elif kind is Kind.F:
            yield from self._hop(task, action, rank, Kind.SEND_F, (Kind.F,), (Kind.C_EMBED,))
        elif kind in BACKWARDS:
            yield from (self.at.get((rank, own, stage, m)) for own in (Kind.F, Kind.R, Kind.FETCH))
            yield from self._hop(task, action, rank, Kind.SEND_B, BACKWARDS, (Kind.C2, Kind.C1))
        elif kind in OWN:
            yield self._first(rank, OWN[kind], stage, m)
        elif kind in AFTER:
            yield from self._collectives(rank, AFTER[kind], m)
        elif kind in OF_PASSES:
            yield from self.all_of.get((OF_PASSES[kind], m), ())
        elif kind in COLLECTIVES:
            yield self._latest(task, (Kind.F,) if kind is Kind.C0 else (*BACKWARDS, Kind.W), m)

    def _hop(
        self, task: int, action: Action, rank: int, send: Kind, kinds: tuple[Kind, ...], first: tuple[Kind, ...]
    ) -> Iterator[int | None]:
        """What came from the hop before: by message, or straight; before the first hop, a collective."""
        message = self.to.get((rank, send, action.stage, action.microbatch))
        if message is None:
            message = self._latest(task, kinds, action.microbatch)
        if message is not None:
            yield message
            return
        for collective in first:
            yield from self._collectives(rank, collective, action.microbatch)

    def _collectives(self, rank: int, kind: Kind, microbatch: int) -> list[int]:
        """A simulated collective is one task for all; of measured ones each rank has its own."""
        found = self.all_of.get((kind, microbatch), [])
        return [i for i in found if self.timeline.rank[i] == rank] or found

    def _latest(self, task: int, kinds: tuple[Kind, ...], microbatch: int) -> int | None:
        start, end = self.timeline.start[task], self.timeline.end
        found = [i for kind in kinds for i in self.all_of.get((kind, microbatch), ()) if i != task]
        return max((i for i in found if end[i] <= start + self.slack), key=lambda i: end[i], default=None)

    def _first(self, rank: int, kinds: tuple[Kind, ...], stage: int, microbatch: int) -> int | None:
        found = (self.at.get((rank, kind, stage, microbatch)) for kind in kinds)
        return next((i for i in found if i is not None), None)
