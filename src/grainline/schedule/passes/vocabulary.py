"""Vocabulary parallelism: the embedding and the output layer split over all ranks, as passes inside any schedule.

*Balancing Pipeline Parallelism with Vocabulary Parallelism*, arXiv 2411.05288, sections 4 and 5. Every rank holds V/P
rows of both matrices. The output layer is two passes per micro-batch on every rank, S and T, with collectives between:

    C0   the last stage's output, to all                        after F of the last stage
    S    logits of this rank's rows, softmax over them alone    after C0
    C1   the statistics that make it the softmax over all       after all S
    T    what is left of the gradients                          after C1
    C2   vocab1: the sum of the hidden states' gradient         after all T; vocab2 has it in S and C1 already

B of the last stage follows C2 (vocab1: two barriers) or C1 (vocab2: one). The embedding is EMBED, C_EMBED before F of
the first stage, and C_EMBED_GRAD, EMBED_GRAD after its backward.

Where everything goes is found by playing the bare schedule, with what its passes cost. A rank keeps its order of
forwards and its order of backwards, but its backwards fall behind by one interval (the forwards of one micro-batch) per
barrier: that is how long the last stage waits, and what one more micro-batch in flight pays for. A backward that is
ready sooner only fills the time in which a forward isn't there. S goes to the first place between two passes at which
its input is there, before or after B: so it runs on all ranks within a pass of the same time, which the paper gets from
a walk over offsets, and does so for uneven stages and split backwards too. What no one waits for (vocab2's T,
EMBED_GRAD) fills idle time, and waits for at most one more of its kind. All ranks have the collectives in one order.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from grainline.schedule.actions import COLLECTIVES, Action, Kind
from grainline.schedule.costs import Costs, equal_costs
from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.schedule import Schedule

Algorithm = Literal["vocab1", "vocab2"]
BARRIERS: dict[Algorithm, int] = {"vocab1": 2, "vocab2": 1}
"""How often the last stage waits for all ranks between a forward and its backward."""

EMBED_AHEAD = 2  # micro-batches looked up before the first stage wants them: one is on its way while one is used
BACKWARD = (Kind.B, Kind.I)
BARE = (Kind.F, *BACKWARD, Kind.W, Kind.R)
Seconds = Callable[[int, Action], float]


def add_vocabulary_passes(schedule: Schedule, algorithm: Algorithm, costs: Costs | None = None) -> Schedule:
    """A bare schedule, with the vocabulary passes of all micro-batches on all ranks.

    Stages must not hold the embedding and the head any more. `costs` (default: equal stages) say what passes take;
    those of S, T, EMBED, EMBED_GRAD are in `costs.seconds_on` or `rank_seconds`, of collectives (all of it) too, with
    `default_seconds` for what isn't there. A schedule of forwards alone gets what evaluation needs: EMBED, C_EMBED, C0,
    S and C1.

    Raises ScheduleError where lists have messages or passes already, or can't be carried out.
    """
    if algorithm not in BARRIERS:
        raise ScheduleError(f"algorithm {algorithm!r} of vocabulary passes: one of {', '.join(BARRIERS)}")
    play = _Play(schedule, algorithm, _seconds(schedule, algorithm, costs))
    play.run()
    lists = [_with_collectives(schedule, r, rank.found, play.collectives) for r, rank in enumerate(play.ranks)]
    return schedule.with_actions(lists, f"{schedule.name}+{algorithm}")


def why_no_steady_state(ranks: int, microbatches: int, algorithm: Algorithm) -> str | None:
    """What to tell a person whose micro-batches are too few for barriers to hide; None if they suffice.

    The passes work all the same: backwards then begin when all forwards are done, as in GPipe.
    """
    enough = ranks + BARRIERS[algorithm]
    if microbatches >= enough:
        return None
    return (
        f"{microbatches} micro-batches over {ranks} ranks are too few to hide the barriers of {algorithm}: all "
        f"forwards run before the first backward. Use {enough} or more."
    )


def default_seconds(algorithm: Algorithm, forward: float) -> dict[Kind, float]:
    """What is assumed of passes whose cost isn't known, given the mean forward of a stage.

    The output layer's three products on a rank take as long as a forward: vocab1 does one in S and two in T, vocab2
    the other way round. Collectives take half a forward: they must fit beside one (section 5.2).
    """
    s, t = (1 / 3, 2 / 3) if algorithm == "vocab1" else (2 / 3, 1 / 3)
    collectives = dict.fromkeys(COLLECTIVES, forward / 2)
    return {Kind.S: s * forward, Kind.T: t * forward, Kind.EMBED: 0.0, Kind.EMBED_GRAD: 0.0} | collectives


def _seconds(schedule: Schedule, algorithm: Algorithm, costs: Costs | None) -> Seconds:
    costs = costs or equal_costs()
    held = [(stage, rank) for rank in range(schedule.ranks) for stage in schedule.stages_of(rank)]
    forward = sum(costs.stage(*at).seconds.get(Kind.F, 0.0) for at in held) / len(held)
    of_passes = default_seconds(algorithm, forward) | dict(costs.rank_seconds)

    def seconds(rank: int, action: Action) -> float:
        if action.stage < 0:
            return costs.seconds_on.get((action.kind, rank), of_passes[action.kind])
        return costs.stage(action.stage, rank).seconds.get(action.kind, 0.0)

    return seconds


@dataclass
class _Rank:
    """One rank while it is played."""

    forwards: list[Action]
    backwards: list[tuple[Action, int]]  # B, I, W and R, with the number of forwards before it in the bare list
    window: int  # forwards by which a backward may fall behind
    forward: int = 0  # next of each
    backward: int = 0
    embedded: int = 0
    busy: bool = False
    waiting: dict[Kind, deque[int]] = field(default_factory=lambda: defaultdict(deque))  # micro-batches of passes
    found: list[Action] = field(default_factory=list)

    @property
    def is_through(self) -> bool:
        """Whether nothing is left of its own list."""
        return self.forward == len(self.forwards) and self.backward == len(self.backwards)


class _Play:
    """Carries out a bare schedule in time, and with it the passes; `ranks[r].found` and `collectives` come out."""

    def __init__(self, schedule: Schedule, algorithm: Algorithm, seconds: Seconds) -> None:
        self.schedule, self.seconds = schedule, seconds
        self.two_barriers = algorithm == "vocab1"
        self.hop = [{hop.stage: i for i, hop in enumerate(path)} for path in schedule.paths]
        self.trains = any(action.kind in BACKWARD for actions in schedule.actions for action in actions)
        self.ranks = [_bare(schedule, r, BARRIERS[algorithm]) for r in range(schedule.ranks)]
        self.embed_order = _first_forwards(schedule)
        self.begun = 0  # micro-batches that are in the first stage or beyond it
        self.done: set[tuple[Kind, int, int]] = set()
        self.passes: Counter[tuple[Kind, int]] = Counter()  # by kind and micro-batch: ranks that have done it
        self.collectives: list[Action] = []
        self.stream_is_free = 0.0
        self.events: list[tuple[float, int, int, Action]] = []  # when what ends, on which rank (−1: on all)
        self.tie = itertools.count()
        self.woken = set(range(schedule.ranks))
        self.now = 0.0

    def run(self) -> None:
        """To the end of all lists."""
        while True:
            while self.woken:
                woken = min(self.woken)
                self.woken.remove(woken)
                self._start(woken)
            if not self.events:
                break
            self.now = self.events[0][0]
            while self.events and self.events[0][0] <= self.now * (1 + 1e-12):
                _, _, r, action = heapq.heappop(self.events)
                self._end(r, action)
        for r, rank in enumerate(self.ranks):
            if not rank.is_through:
                following = [*(a for a, _ in rank.backwards[rank.backward :]), *rank.forwards[rank.forward :]]
                raise ScheduleError(f"{self.schedule.name}: rank {r} never gets to {following[0]}")

    def _start(self, r: int) -> None:
        rank = self.ranks[r]
        action = None if rank.busy else self._choose(r)
        if action is None:
            return
        rank.busy = True
        rank.found.append(action)
        if action.kind is Kind.F and self.hop[action.microbatch][action.stage] == 0:
            self.begun += 1
            self.woken.update(range(len(self.ranks)))
        self._ends(self.seconds(r, action), r, action)

    def _ends(self, seconds: float, rank: int, action: Action) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.tie), rank, action))

    def _choose(self, r: int) -> Action | None:
        """What others wait for, then the rank's own list, then what can wait; but no two of a kind wait."""
        rank, waiting = self.ranks[r], self.ranks[r].waiting
        if rank.embedded < min(len(self.embed_order), self.begun + EMBED_AHEAD):
            rank.embedded += 1
            return Action(Kind.EMBED, microbatch=self.embed_order[rank.embedded - 1])
        for kind, may_wait in ((Kind.T, 0 if self.two_barriers else 1), (Kind.S, 0), (Kind.EMBED_GRAD, 1)):
            if len(waiting[kind]) > may_wait:
                return Action(kind, microbatch=waiting[kind].popleft())
        if (own := self._own(r)) is not None:
            return own
        for kind in (Kind.T, Kind.EMBED_GRAD):
            if waiting[kind]:
                return Action(kind, microbatch=waiting[kind].popleft())
        return None

    def _own(self, r: int) -> Action | None:
        """The rank's next forward, as far ahead of the backwards as it may be, or else its next backward."""
        rank = self.ranks[r]
        has_backward = rank.backward < len(rank.backwards)
        backward, after = rank.backwards[rank.backward] if has_backward else (None, len(rank.forwards))
        if rank.forward < min(len(rank.forwards), after + rank.window):
            forward = rank.forwards[rank.forward]
            if self._is_ready(forward):
                rank.forward += 1
                return forward
        if backward is not None and rank.forward >= after and self._is_ready(backward):
            rank.backward += 1
            return backward
        return None

    def _is_ready(self, action: Action) -> bool:
        kind, stage, m = action.kind, action.stage, action.microbatch
        if kind is Kind.W:
            return True
        path, hop = self.schedule.paths[m], self.hop[m][stage]
        if kind is Kind.F:
            return ((Kind.F, path[hop - 1].stage, m) if hop else (Kind.C_EMBED, -1, m)) in self.done
        if hop < len(path) - 1:  # B, I and R
            return (Kind.B, path[hop + 1].stage, m) in self.done
        return (Kind.C2 if self.two_barriers else Kind.C1, -1, m) in self.done

    def _end(self, r: int, action: Action) -> None:
        kind, m = action.kind, action.microbatch
        self.done.add((Kind.B if kind is Kind.I else kind, action.stage, m))
        if r >= 0:
            self.ranks[r].busy = False
            self.woken.add(r)
            self.passes[kind, m] += 1
        all_have = self.passes[kind, m] == len(self.ranks)
        if kind is Kind.F or kind in BACKWARD:
            path, hop = self.schedule.paths[m], self.hop[m][action.stage] + (1 if kind is Kind.F else -1)
            if 0 <= hop < len(path):
                self.woken.add(path[hop].rank)
            else:
                self._begin(Kind.C0 if kind is Kind.F else Kind.C_EMBED_GRAD, m)
        elif kind is Kind.EMBED and all_have:
            self._begin(Kind.C_EMBED, m)
        elif kind is Kind.S and all_have:
            self._begin(Kind.C1, m)
        elif kind is Kind.T and all_have and self.two_barriers:
            self._begin(Kind.C2, m)
        elif kind in COLLECTIVES:
            released = {Kind.C0: Kind.S, Kind.C1: Kind.T, Kind.C_EMBED_GRAD: Kind.EMBED_GRAD}.get(kind)
            for rank in self.ranks:
                if released is not None and (self.trains or released is Kind.S):
                    rank.waiting[released].append(m)
            self.woken.update(range(len(self.ranks)))

    def _begin(self, kind: Kind, m: int) -> None:
        """A collective, after those before it."""
        action = Action(kind, microbatch=m)
        self.collectives.append(action)
        self.stream_is_free = max(self.now, self.stream_is_free) + self.seconds(-1, action)
        self._ends(self.stream_is_free - self.now, -1, action)


def _bare(schedule: Schedule, r: int, barriers: int) -> _Rank:
    forwards: list[Action] = []
    backwards: list[tuple[Action, int]] = []
    for action in schedule.actions[r]:
        if action.kind not in BARE:
            raise ScheduleError(
                f"rank {r} has {action} already: vocabulary passes go in before all but {', '.join(BARE)}"
            )
        if action.kind is Kind.F:
            forwards.append(action)
        else:
            backwards.append((action, len(forwards)))
    return _Rank(forwards, backwards, barriers * max(1, len(schedule.stages_of(r))))


def _first_forwards(schedule: Schedule) -> list[int]:
    """Micro-batches in the order in which they enter their first stage."""
    entries = [
        (i, r, action.microbatch)
        for r, actions in enumerate(schedule.actions)
        for i, action in enumerate(actions)
        if action.kind is Kind.F and schedule.paths[action.microbatch][0].stage == action.stage
    ]
    return [m for _, _, m in sorted(entries)]


def _with_collectives(schedule: Schedule, r: int, found: list[Action], collectives: list[Action]) -> list[Action]:
    """Collectives put where their input is made; as early as their order allows where the rank only takes part."""
    place = {action: i for i, action in enumerate(found, 1)}
    before: dict[int, list[Action]] = defaultdict(list)
    at = 0
    for collective in collectives:
        at = max(at, _given(schedule, r, collective, place))
        before[at].append(collective)
    result = list(before[0])
    for i, action in enumerate(found, 1):
        result += [action, *before[i]]
    return result


def _given(schedule: Schedule, r: int, collective: Action, place: dict[Action, int]) -> int:
    """How many of the rank's own passes come before its part in a collective."""
    m, path = collective.microbatch, schedule.paths[collective.microbatch]
    made_by = {Kind.C1: Kind.S, Kind.C2: Kind.T, Kind.C_EMBED: Kind.EMBED}.get(collective.kind)
    if made_by is not None:
        return place[Action(made_by, microbatch=m)]
    if collective.kind is Kind.C0:
        return place[Action(Kind.F, path[-1].stage, m)] if path[-1].rank == r else 0
    # C_EMBED_GRAD: besides the first stage, MTP's has gradients of embeddings; it is somewhere on the path.
    here = (Action(kind, hop.stage, m) for hop in path if hop.rank == r for kind in BACKWARD)
    return max((place.get(action, 0) for action in here), default=0)
