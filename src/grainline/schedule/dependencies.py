"""What waits for what: the one meaning of a schedule's lists, for the validator, the simulator and the drawings.

Lists become tasks. A compute action is a task of its own; a send and its receive are one task, the message; a
collective is one task of all ranks that take part. `Tasks.needs` says which tasks must end before one may start:

- compute waits for the compute before it in its list, and for its own inputs (below);
- a message starts when both ends have come to it: sender and receiver have done the compute before it in their lists;
- a collective starts when all who take part have come to it, after the collectives before it;
- inputs: F needs the hop before, B and I need their own F (or R, or FETCH) and the B or I of the hop after; W needs
  its I; the vocabulary passes need their collectives and these their passes (arXiv 2411.05288, section 4). `inputs.py`
  has them one by one.

Everything is computed on columns (`columns.py`): a step of a thousand ranks has a million actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from grainline.schedule.actions import COLLECTIVES, COMPUTE, COPIES, RECEIVES, SENDS, Action, Kind
from grainline.schedule.columns import Columns, Index, Longs
from grainline.schedule.inputs import action_at, action_name, inputs_of, refuse_nonsense
from grainline.schedule.schedule import Schedule, ScheduleError
from grainline.schedule.simulator.graph import Ints, Ragged

WHATS = {
    "compute": COMPUTE,
    "copy": COPIES,
    "collective": COLLECTIVES,
    "forward": frozenset({Kind.SEND_F}),
    "backward": frozenset({Kind.SEND_B}),
}


class Place(NamedTuple):
    """Where an action stands: its rank, and its place in that rank's list."""

    rank: int
    at: int


class Stream(NamedTuple):
    """What carries out tasks one after another: compute, copies or collectives of a rank, messages to another."""

    what: str  # a key of WHATS
    rank: int
    to: int = -1  # of messages

    def __str__(self) -> str:
        return f"{self.what} {self.rank}" + (f"→{self.to}" if self.to >= 0 else "")


@dataclass(frozen=True)
class Task:
    """One thing to be done. `places` are the actions that it is made of: two of a message, several of a collective."""

    action: Action  # of the first place
    places: tuple[Place, ...]
    stream: Stream


@dataclass(frozen=True)
class Tasks:
    """A schedule as tasks, in an order in which each stream has its own.

    `waits_for[i]` are the tasks that must end before task i starts, its stream's order apart. `actions` are the rows of
    all lists, `rows[i]` those that task i is made of (the sender's first), `columns` the first row of each task.
    """

    schedule: Schedule
    actions: Columns
    rows: Ragged
    columns: Columns
    waits_for: Ragged

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """As objects."""
        places = [Place(r, i) for r, actions in enumerate(self.schedule.actions) for i in range(len(actions))]
        streams, number = self.streams
        rows, ends = self.rows.values.tolist(), self.rows.offsets.tolist()
        found = []
        for task, stream in enumerate(number.tolist()):
            mine = tuple(places[row] for row in rows[ends[task] : ends[task + 1]])
            found.append(Task(self.schedule.actions[mine[0].rank][mine[0].at], mine, streams[stream]))
        return tuple(found)

    @cached_property
    def needs(self) -> tuple[tuple[int, ...], ...]:
        """`waits_for` as tuples."""
        values, ends = self.waits_for.values.tolist(), self.waits_for.offsets.tolist()
        return tuple(tuple(values[ends[i] : ends[i + 1]]) for i in range(len(self)))

    @cached_property
    def streams(self) -> tuple[tuple[Stream, ...], Ints]:
        """Every rank's compute, then what other streams there are; and the number of each task's."""
        of, ranks = self.columns, self.schedule.ranks
        what = np.select([of.are(kinds) for kinds in WHATS.values()], range(len(WHATS)))
        to = np.where(of.are(SENDS), of.peer, -1)
        size = (len(WHATS), ranks, ranks + 1)
        keys = np.ravel_multi_index((what, of.rank, to + 1), size)
        every_compute = np.ravel_multi_index((np.zeros(ranks, int), np.arange(ranks), np.zeros(ranks, int)), size)
        unique, number = np.unique(np.concatenate([every_compute, keys]), return_inverse=True)
        names = list(WHATS)
        found = zip(*(column.tolist() for column in np.unravel_index(unique, size)), strict=True)
        return tuple(Stream(names[w], rank, t - 1) for w, rank, t in found), number[ranks:].astype(np.int32)

    def first_actions(self) -> tuple[Action, ...]:
        """The action of each task's first place."""
        actions = list(chain.from_iterable(self.schedule.actions))
        return tuple(actions[row] for row in self.rows.values[self.rows.offsets[:-1]].tolist())

    def name(self, task: int) -> str:
        """For people: e.g. "rank 2: F3.0"."""
        return action_name(self.schedule, self.actions, int(self.rows[task][0]))


def tasks_of(schedule: Schedule) -> Tasks:
    """Lists → tasks. Raises ScheduleError where an action is doubled, or one that another needs is in no list."""
    actions = Columns.of(schedule.actions)
    refuse_nonsense(schedule, actions)
    task = _number(schedule, actions)
    by_task = np.lexsort((actions.are(RECEIVES), task))
    rows = Ragged(_offsets(task, 1 + int(task.max(initial=-1))), by_task.astype(np.int32))
    waits_for = _waits_for(len(rows), [*_before(actions, task), *inputs_of(schedule, actions, task)])
    return Tasks(schedule, actions, rows, actions.take(by_task[rows.offsets[:-1]]), waits_for)


def _number(schedule: Schedule, actions: Columns) -> Longs:
    """The task that each row belongs to.

    In the order of the lists, rank by rank; a message stands where its later end does, collectives come after all.
    """
    at = np.arange(len(actions))
    sent, received = _messages(schedule, actions)
    at[sent] = at[received] = np.maximum(sent, received)
    rows = actions.rows(COLLECTIVES)
    of = actions.take(rows)
    at[rows] = len(actions) + Index(rows, *_fields(of)).first(*_fields(of))
    number: Longs = np.unique(at, return_inverse=True)[1]
    return number


def _fields(of: Columns) -> tuple[Longs, ...]:
    return of.kind, of.stage, of.microbatch, of.peer, of.peer_stage


def _messages(schedule: Schedule, actions: Columns) -> tuple[Longs, Longs]:
    """Rows of sends, and of their receives."""
    sends, receives = actions.rows(SENDS), actions.rows(RECEIVES)
    rows = np.concatenate([sends, receives])
    for row in rows[(actions.peer[rows] < 0) | (actions.peer[rows] >= schedule.ranks)].tolist()[:1]:
        raise ScheduleError(f"{action_name(schedule, actions, row)} has no peer among the {schedule.ranks} ranks")
    by_send, by_receive = (Index(rows, *_ends(actions.take(rows))) for rows in (sends, receives))
    for row in [*by_send.doubled().tolist(), *by_receive.doubled().tolist()][:1]:
        raise ScheduleError(f"rank {actions.rank[row]} has {action_at(schedule, actions, row)} twice")
    of_send = by_receive.first(*_ends(actions.take(sends)))
    of_receive = by_send.first(*_ends(actions.take(receives)))
    for row in [*sends[of_send < 0].tolist(), *receives[of_receive < 0].tolist()][:1]:
        met = "receive" if row in sends else "send"
        raise ScheduleError(f"{action_name(schedule, actions, row)} meets no {met} on rank {actions.peer[row]}")
    return sends, of_send


def _ends(of: Columns) -> tuple[Longs, ...]:
    """The same for both ends of a message: its way, sender, receiver, and micro-batch."""
    forward = of.are([Kind.SEND_F, Kind.RECV_F]).astype(np.int64)
    here, there = (of.rank, of.stage), (of.peer, of.peer_stage)
    is_send = of.are(SENDS)
    sender = tuple(np.where(is_send, mine, other) for mine, other in zip(here, there, strict=True))
    receiver = tuple(np.where(is_send, other, mine) for mine, other in zip(here, there, strict=True))
    return (forward, *sender, *receiver, of.microbatch)


def _before(actions: Columns, task: Longs) -> list[tuple[Longs, Longs]]:
    """What a task waits for by its place in a list: the compute before it, and for a collective the one before it."""
    pairs = []
    for kinds, waiting in ((COMPUTE, np.ones(len(actions), dtype=bool)), (COLLECTIVES, actions.are(COLLECTIVES))):
        rows = np.arange(len(actions))
        last = np.maximum.accumulate(np.where(actions.are(kinds), rows, -1))
        before = np.concatenate([[-1], last[:-1]])[: len(actions)]
        users = rows[waiting & (before >= 0) & (actions.rank[before] == actions.rank)]
        pairs.append((task[users], task[before[users]]))
    return pairs


def _waits_for(tasks: int, pairs: list[tuple[Longs, Longs]]) -> Ragged:
    """Pairs of a task and one that it waits for → lists, ascending. No task waits for itself."""
    of, needs = (np.concatenate(column) for column in zip(*pairs, strict=True))
    different = np.unique((of * tasks + needs)[of != needs])
    return Ragged(_offsets(different // max(1, tasks), tasks), (different % max(1, tasks)).astype(np.int32))


def _offsets(group: Longs, groups: int) -> Ints:
    """Of lists that hold the members of each group."""
    return np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))]).astype(np.int32)
