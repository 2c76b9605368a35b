"""Where weight-gradient passes go: into the gaps that forwards and input gradients leave (arXiv 2401.10241, section 3).

A list of F and B per rank becomes one of F, I and W. The lists are played with real costs. Where a rank would wait, a W
that is pending takes the gap, or a later F or I that is ready, if it fits. Where a rank holds as many micro-batches as
it may, a W is done before the next F.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from grainline.schedule.actions import Action, Kind
from grainline.schedule.costs import Costs
from grainline.schedule.dependencies import ScheduleError
from grainline.schedule.schedule import Schedule

NEARLY = 1 - 1e-9  # so that sums of equal times, in another order, still fit


@dataclass(frozen=True)
class Policy:
    """How gaps are filled: by a W if they are `least_gap` of its time or more, or by a later F or I that fits."""

    least_gap: float
    weights_first: bool = True
    overtake: bool = True


POLICIES = (
    Policy(1.0, overtake=False),
    Policy(1.0),
    Policy(1.0, weights_first=False),
    Policy(0.5),
    Policy(1e-9),
)
"""Of equals the first is taken: a list's own order, unless another is better."""


def place_weights(
    schedule: Schedule, costs: Costs, held: int, *, message_seconds: float = 0.0, name: str | None = None
) -> Schedule:
    """Bare compute with each B as I and W: the shortest that any of POLICIES gives.

    `held` is the most forwards that a rank may hold whose W isn't done. A message takes `message_seconds`.
    Raises ScheduleError if a list's own order needs more held than that, or a cost of F, I or W is missing.
    """
    return shortest([(schedule, held)], costs, message_seconds=message_seconds, name=name or schedule.name)


def shortest(orders: list[tuple[Schedule, int]], costs: Costs, *, message_seconds: float = 0.0, name: str) -> Schedule:
    """As `place_weights`, the best of several orders with their bounds on what is held; of equals the first."""
    best: tuple[float, Schedule] | None = None
    for order, held in orders:
        problem = _Problem.of(order, costs, message_seconds)
        for policy in POLICIES:
            game = _Game(problem, held, policy)
            game.run()
            if best is None or game.makespan() < best[0] * NEARLY:
                best = game.makespan(), order.with_actions(game.lists(), name)
    if best is None:
        raise ValueError("no order to choose from")
    return best[1]


def least_held(schedule: Schedule) -> tuple[int, ...]:
    """By rank: the most forwards without their backward, by the order of the list; no lower bound can be kept."""
    peaks = []
    for actions in schedule.actions:
        count = peak = 0
        for action in actions:
            count += (action.kind is Kind.F) - (action.kind in (Kind.B, Kind.I))
            peak = max(peak, count)
        peaks.append(peak)
    return tuple(peaks)


@dataclass(frozen=True)
class _Problem:
    """All that no policy changes. F and I are numbers: what each is, what it needs, what it takes."""

    actions: list[Action]
    order: list[list[int]]  # by rank
    needs: list[list[tuple[int, float]]]  # of an action: another, and the seconds from its end until that is here
    seconds: list[float]
    weight_seconds: list[float]  # of the W that an I leaves; 0 for an F
    is_forward: list[bool]

    @classmethod
    def of(cls, schedule: Schedule, costs: Costs, message_seconds: float) -> _Problem:
        """A B counts as its I."""
        found = cls([], [], [], [], [], [])
        number: dict[tuple[bool, int, int], int] = {}  # is it an F, stage, micro-batch
        for rank, actions in enumerate(schedule.actions):
            found.order.append([])
            for action in actions:
                if action.kind is Kind.W:
                    continue
                forward = action.kind is Kind.F
                seconds = _seconds(costs, action.stage, rank)
                number[forward, action.stage, action.microbatch] = len(found.actions)
                found.order[-1].append(len(found.actions))
                found.actions.append(action if forward else Action(Kind.I, action.stage, action.microbatch))
                found.seconds.append(seconds[Kind.F if forward else Kind.I])
                found.weight_seconds.append(0.0 if forward else seconds[Kind.W])
                found.is_forward.append(forward)
        found.needs.extend([] for _ in found.actions)
        for m, path in enumerate(schedule.paths):
            for hop, (stage, rank) in enumerate(path):
                for forward, other in ((True, hop - 1), (False, hop + 1)):
                    needs = found.needs[number[forward, stage, m]]
                    if not forward:
                        needs.append((number[True, stage, m], 0.0))
                    if 0 <= other < len(path):
                        travel = message_seconds if path[other].rank != rank else 0.0
                        needs.append((number[forward, path[other].stage, m], travel))
        return found


def _seconds(costs: Costs, stage: int, rank: int) -> dict[Kind, float]:
    times = costs.stage(stage, rank).seconds
    missing = [kind.value for kind in (Kind.F, Kind.I, Kind.W) if kind not in times]
    if missing:
        raise ScheduleError(f"stage {stage} on rank {rank} has no cost of {', '.join(missing)}")
    return dict(times)


@dataclass
class _Rank:
    """What a rank has done, and still has to do."""

    todo: deque[int]  # F and I, in order
    free: float = 0.0  # seconds: when the last that it did ended
    held: int = 0
    pending: deque[int] = field(default_factory=deque)  # I whose W isn't done
    done: list[tuple[int, bool]] = field(default_factory=list)  # an action, or the W that it left


class _Game:
    """One play of the lists under one policy."""

    def __init__(self, problem: _Problem, held: int, policy: Policy) -> None:
        self.problem, self.held, self.policy = problem, held, policy
        self.ends: list[float | None] = [None] * len(problem.actions)
        self.ranks = [_Rank(deque(order)) for order in problem.order]

    def run(self) -> None:
        """The rank that can start its next action first goes first; ties by rank, so that there is one result."""
        queue: list[tuple[float, int]] = []
        waiting: dict[int, list[int]] = {}  # action → ranks that can't go on before it is done

        def enter(rank: int) -> None:
            here = self.ranks[rank]
            if here.todo:
                ready = self.ready(here.todo[0])
                if isinstance(ready, float):
                    heapq.heappush(queue, (max(ready, here.free), rank))
                else:
                    waiting.setdefault(ready, []).append(rank)

        for rank in range(len(self.ranks)):
            enter(rank)
        while queue:
            start, rank = heapq.heappop(queue)
            for done in self.go_on(rank, start):
                for other in waiting.pop(done, ()):
                    enter(other)
            enter(rank)
        for rank, here in enumerate(self.ranks):
            if here.todo:
                raise ScheduleError(f"rank {rank} waits for ever before {self.problem.actions[here.todo[0]]}")
            while here.pending:
                self.weigh(here)

    def makespan(self) -> float:
        """Seconds, once it has run."""
        return max(here.free for here in self.ranks)

    def lists(self) -> list[list[Action]]:
        """By rank."""
        actions = self.problem.actions
        return [
            [replace(actions[i], kind=Kind.W) if weight else actions[i] for i, weight in here.done]
            for here in self.ranks
        ]

    def go_on(self, rank: int, start: float) -> Iterator[int]:
        """Fill the gap before the rank's next action, which can start at `start`, and do it. Yields what is done."""
        here, seconds = self.ranks[rank], self.problem.weight_seconds
        while here.free < start:
            wanted = self.policy.least_gap * NEARLY
            weigh = bool(here.pending) and start - here.free >= wanted * seconds[here.pending[0]]
            if weigh and self.policy.weights_first:
                self.weigh(here)
                continue
            place = self.early(here, start) if self.policy.overtake else None
            if place is not None:
                action = here.todo[place]
                del here.todo[place]
                self.do(here, action)
                yield action
            elif weigh:
                self.weigh(here)
            else:
                break
        action = here.todo.popleft()
        while self.problem.is_forward[action] and here.held >= self.held:
            if not here.pending:
                wish = self.problem.actions[action]
                raise ScheduleError(f"rank {rank} must hold more than {self.held} micro-batches to do {wish}")
            self.weigh(here)
        self.do(here, action)
        yield action

    def early(self, here: _Rank, end: float) -> int | None:
        """The place of the first later F or I that is ready and fits before `end`, with no more held than may be."""
        forward = self.problem.is_forward
        count = here.held - len(here.pending)  # what must be held there, all W done
        room = here.held < self.held
        for place, action in enumerate(islice(here.todo, 2 * self.held + 1)):  # further on there is no room for an F
            if place and (room or not forward[action]):
                ready = self.ready(action)
                if isinstance(ready, float) and max(ready, here.free) + self.problem.seconds[action] * NEARLY <= end:
                    return place
            count += 1 if forward[action] else -1
            room = room and count < self.held
        return None

    def ready(self, action: int) -> float | int:
        """Seconds, when all that an action needs has arrived; or the number of one that isn't done yet."""
        latest = 0.0
        for need, travel in self.problem.needs[action]:
            end = self.ends[need]
            if end is None:
                return need
            if end + travel > latest:
                latest = end + travel
        return latest

    def do(self, here: _Rank, action: int) -> None:
        """An F or I whose inputs are known, as early as may be."""
        ready = self.ready(action)
        start = max(here.free, float(ready))
        here.free = start + self.problem.seconds[action]
        here.done.append((action, False))
        if self.problem.is_forward[action]:
            here.held += 1
        else:
            here.pending.append(action)
        self.ends[action] = here.free

    def weigh(self, here: _Rank) -> None:
        """The oldest W."""
        action = here.pending.popleft()
        here.free += self.problem.weight_seconds[action]
        here.held -= 1
        here.done.append((action, True))
