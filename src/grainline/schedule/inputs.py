"""What each kind of action uses: the tasks that must have ended for their results to be there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np

from grainline.schedule.actions import SENDS, Action, Kind
from grainline.schedule.columns import Columns, Index, Longs
from grainline.schedule.schedule import Path, Schedule, ScheduleError

Pairs = list[tuple[Longs, Longs]]  # tasks, and tasks that they use
Kinds = tuple[Kind, ...]

BACKWARDS = (Kind.B, Kind.I)  # whichever gives the gradient of a stage's input
MESSAGES = (Kind.SEND_F, Kind.SEND_B, Kind.RECV_F, Kind.RECV_B)

OWN: tuple[tuple[Kinds, Kinds], ...] = (
    ((Kind.R, Kind.B, Kind.I, Kind.SEND_F, Kind.OFFLOAD), (Kind.F,)),
    ((Kind.W,), (Kind.I,)),
    ((Kind.FETCH,), (Kind.OFFLOAD,)),
    ((Kind.SEND_B,), BACKWARDS),
)
"""These use those of the same rank, stage and micro-batch."""
OWN_IF_THERE: tuple[tuple[Kinds, Kinds], ...] = (((Kind.R, *BACKWARDS), (Kind.FETCH,)), (BACKWARDS, (Kind.R,)))
PASSES: tuple[tuple[Kind, Kind], ...] = (
    (Kind.S, Kind.C0),
    (Kind.C1, Kind.S),
    (Kind.T, Kind.C1),
    (Kind.C2, Kind.T),
    (Kind.C_EMBED, Kind.EMBED),
    (Kind.EMBED_GRAD, Kind.C_EMBED_GRAD),
)
"""The first use the second of the same micro-batch, on all ranks (arXiv 2411.05288, section 4)."""
GRADIENTS = (Kind.B, Kind.I, Kind.W, Kind.T, Kind.S, Kind.EMBED_GRAD, Kind.REDUCE)  # what UPDATE uses on its rank


def inputs_of(schedule: Schedule, actions: Columns, task: Longs) -> Pairs:
    """`task[i]` is the task that row i of `actions` belongs to. Raises ScheduleError where an input is in no list."""
    return _Inputs(schedule, actions, task).pairs()


class _Inputs:
    def __init__(self, schedule: Schedule, actions: Columns, task: Longs) -> None:
        self.schedule, self.actions, self.task = schedule, actions, task
        self.hops = _Hops.of(schedule.paths)
        self.is_bare = not actions.are(SENDS).any()  # `add_messages` hasn't been applied yet
        self.at: dict[Kinds, Index] = {}
        self.found: Pairs = []

    def pairs(self) -> Pairs:
        of = self.actions
        for users, sources in OWN:
            rows = of.rows(users)
            self.need(rows, sources, of.rank[rows], of.stage[rows])
        for users, sources in OWN_IF_THERE:
            rows = of.rows(users)
            self.add(rows, self.find(sources, of.rank[rows], of.stage[rows], of.microbatch[rows]))
        for user, source in PASSES:
            self.passes(user, source)
        self.forwards()
        self.backwards()
        self.ends()
        self.use_all(Kind.REDUCE, (Kind.B, Kind.I, Kind.W), of.stage)
        self.use_all(Kind.UPDATE, GRADIENTS, of.rank)
        return self.found

    def add(self, rows: Longs, needs: Longs) -> None:
        """Rows use tasks; −1 is none."""
        self.found.append((self.task[rows][needs >= 0], needs[needs >= 0]))

    def find(self, kinds: Kinds, rank: Longs, stage: Longs, microbatch: Longs) -> Longs:
        """Tasks of one of these kinds at these places; −1 where there is none."""
        if kinds not in self.at:
            rows = self.actions.rows(kinds)
            of = self.actions.take(rows)
            self.at[kinds] = Index(self.task[rows], of.rank, of.stage, of.microbatch)
        return self.at[kinds].first(rank, stage, microbatch)

    def need(self, rows: Longs, kinds: Kinds, rank: Longs, stage: Longs) -> None:
        """Rows use one of these kinds at these places, for their own micro-batch."""
        microbatch = self.actions.microbatch[rows]
        found = self.find(kinds, rank, stage, microbatch)
        for i in np.flatnonzero(found < 0)[:1].tolist():
            lacking = Action(kinds[0], int(stage[i]), int(microbatch[i]))
            words = f"{action_name(self.schedule, self.actions, int(rows[i]))} needs {lacking} on rank {rank[i]}"
            raise ScheduleError(f"{words}: in no list there")
        self.add(rows, found)

    def passes(self, user: Kind, source: Kind) -> None:
        rows, sources = self.actions.rows([user]), self.actions.rows([source])
        by_microbatch = Index(self.task[sources], self.actions.microbatch[sources])
        tasks, first = np.unique(self.task[rows], return_index=True)  # a collective has a row on every rank
        microbatch = self.actions.microbatch[rows[first]]
        for i in np.flatnonzero(by_microbatch.first(microbatch) < 0)[:1].tolist():
            words = f"{action_name(self.schedule, self.actions, int(rows[first[i]]))} needs {source}"
            raise ScheduleError(f"{words} of micro-batch {microbatch[i]}: in no list")
        which, needs = by_microbatch.all(microbatch)
        self.found.append((tasks[which], needs))

    def forwards(self) -> None:
        rows = self.actions.rows([Kind.F])
        hop = self.hop(rows)
        first = self.hops.first[hop]
        self.collective(rows[first], (Kind.C_EMBED,))
        self.from_hop(rows[~first], hop[~first] - 1, (Kind.F,), Kind.RECV_F)

    def backwards(self) -> None:
        rows = self.actions.rows(BACKWARDS)
        hop = self.hop(rows)
        last = self.hops.last[hop]
        self.collective(rows[last], (Kind.C2, Kind.C1))
        self.from_hop(rows[~last], hop[~last] + 1, BACKWARDS, Kind.RECV_B)

    def hop(self, rows: Longs) -> Longs:
        """Where each row's micro-batch is on its path."""
        self.refuse_microbatches(rows)
        of = self.actions.take(rows)
        found = self.hops.find(of.microbatch, of.stage)
        wrong = (found < 0) | (self.hops.rank[found] != of.rank) if len(self.hops.rank) else found < 0
        for i in np.flatnonzero(wrong)[:1].tolist():
            raise ScheduleError(
                f"rank {of.rank[i]}: micro-batch {of.microbatch[i]} doesn't visit stage {of.stage[i]} here"
            )
        return found

    def refuse_microbatches(self, rows: Longs) -> None:
        """Raises ScheduleError where a row's micro-batch isn't one."""
        of = self.actions.take(rows)
        for i in np.flatnonzero((of.microbatch < 0) | (of.microbatch >= self.schedule.microbatches))[:1].tolist():
            raise ScheduleError(
                f"rank {of.rank[i]}: there is no micro-batch {of.microbatch[i]} of {self.schedule.microbatches}"
            )

    def from_hop(self, rows: Longs, hop: Longs, kinds: Kinds, receive: Kind) -> None:
        """Rows use the compute of another hop: straight where it is on their rank, else what was received of it."""
        of = self.actions
        straight = (self.hops.rank[hop] == of.rank[rows]) | self.is_bare
        self.need(rows[straight], kinds, self.hops.rank[hop[straight]], self.hops.stage[hop[straight]])
        received = rows[~straight]
        self.need(received, (receive,), of.rank[received], of.stage[received])

    def collective(self, rows: Longs, kinds: Kinds) -> None:
        """Rows use the first of these collectives that there is for their micro-batch, if any."""
        found = np.full(len(rows), -1)
        for kind in kinds:
            sources = self.actions.rows([kind])
            by_microbatch = Index(self.task[sources], self.actions.microbatch[sources])
            found = np.where(found < 0, by_microbatch.first(self.actions.microbatch[rows]), found)
        self.add(rows, found)

    def ends(self) -> None:
        """C0 takes what the last hop made, C_EMBED_GRAD what the first one's backward did."""
        for collective, kinds, is_end in (
            (Kind.C0, (Kind.F,), self.hops.last),
            (Kind.C_EMBED_GRAD, BACKWARDS, self.hops.first),
        ):
            rows = self.actions.rows([collective])
            self.refuse_microbatches(rows)
            end = np.flatnonzero(is_end)[self.hops.path[self.actions.microbatch[rows]]]
            self.need(rows, kinds, self.hops.rank[end], self.hops.stage[end])

    def use_all(self, user: Kind, kinds: Kinds, same: Longs) -> None:
        """Rows use all of these kinds that are alike in one column."""
        rows, sources = self.actions.rows([user]), self.actions.rows(kinds)
        which, needs = Index(self.task[sources], same[sources]).all(same[rows])
        self.found.append((self.task[rows[which]], needs))


@dataclass(frozen=True)
class _Hops:
    """The hops of all different paths, one path after another."""

    path: Longs  # of each micro-batch
    stage: Longs  # by hop
    rank: Longs
    first: Longs  # whether it is its path's first
    last: Longs
    by_stage: Index

    @classmethod
    def of(cls, paths: tuple[Path, ...]) -> _Hops:
        number: dict[Path, int] = {}
        path = np.array([number.setdefault(one, len(number)) for one in paths], np.int64)
        hops = np.array(list(chain.from_iterable(number)), np.int64).reshape(-1, 2)
        of_path = np.repeat(np.arange(len(number)), [len(one) for one in number])
        begins = np.concatenate([[True], of_path[1:] != of_path[:-1]])[: len(hops)]
        ends = np.concatenate([begins[1:], [True]])[: len(hops)]
        stage, rank = hops[:, 0].copy(), hops[:, 1].copy()
        return cls(path, stage, rank, begins, ends, Index(np.arange(len(hops)), of_path, stage))

    def find(self, microbatch: Longs, stage: Longs) -> Longs:
        """The hop at which a micro-batch visits a stage; −1 where it doesn't."""
        return self.by_stage.first(self.path[microbatch], stage)


def refuse_nonsense(schedule: Schedule, actions: Columns) -> None:
    """Raises ScheduleError where an action, messages apart, is there twice, or a number is below −1."""
    numbers = np.stack([actions.stage, actions.microbatch, actions.peer, actions.peer_stage])
    for row in np.flatnonzero((numbers < -1).any(axis=0)).tolist()[:1]:
        raise ScheduleError(f"rank {actions.rank[row]}: {action_at(schedule, actions, row)!r} has a number below -1")
    rows = np.flatnonzero(~actions.are(MESSAGES))
    of = actions.take(rows)
    for row in Index(rows, of.rank, of.kind, of.stage, of.microbatch).doubled().tolist()[:1]:
        raise ScheduleError(f"rank {actions.rank[row]} has {action_at(schedule, actions, row)} twice")


def action_at(schedule: Schedule, actions: Columns, row: int) -> Action:
    """The action that a row was made of."""
    begin = int(np.searchsorted(actions.rank, actions.rank[row]))
    return schedule.actions[int(actions.rank[row])][row - begin]


def action_name(schedule: Schedule, actions: Columns, row: int) -> str:
    """For people: e.g. "rank 2: F3.0"."""
    return f"rank {actions.rank[row]}: {action_at(schedule, actions, row)}"
