"""Whether lists of actions can be carried out, and do the whole step: one check for every schedule.

What holds of a valid schedule:

- paths visit no stage twice and only ranks that there are; every action belongs to a hop of its micro-batch's path;
- every hop has one F, and one B or one I and one W; nothing is there twice;
- within a rank's list, what makes something comes before what uses it (`rules.ORDER`);
- a message goes wherever the path changes rank, and nowhere else, with both ends; the two ends of a pair of ranks have
  the messages of one direction in one order. Lists without any message are bare compute, and are taken as such;
- collectives are on all ranks that take part; all passes of the vocabulary are there, or none;
- UPDATE is the last, on every rank or on none;
- no rank waits for ever.
"""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import pairwise

from grainline.schedule.actions import RECEIVES, SENDS, Action, Kind
from grainline.schedule.dependencies import ScheduleError, Tasks, tasks_of
from grainline.schedule.rules import AT_ENDS, HOP_KINDS, ORDER, PASS_ORDER, PASSES, TRAINING, Places
from grainline.schedule.schedule import Hop, Schedule

MESSAGES = SENDS | RECEIVES


def validate(schedule: Schedule, *, in_flight: int | None = None, forward_only: bool = False) -> None:
    """Raises ScheduleError, naming rank and action, where a schedule breaks a rule above.

    With `in_flight` also where a rank holds more forwards than that whose backward (W, where it is split) isn't done;
    a rank with several stages counts each of them. `forward_only`: an evaluation, without anything that trains.
    """
    _check_paths(schedule)
    places = _places(schedule)
    done = frozenset(Kind) - TRAINING if forward_only else frozenset(Kind)
    for rank, kind, stage, m in places:
        if kind not in done:
            raise ScheduleError(f"rank {rank}: {Action(kind, stage, m)} in an evaluation")
    _check_hops(schedule, places, done)
    _check_messages(schedule, places, done)
    _check_passes(schedule, places, done)
    _check_reductions(schedule, places)
    _check_updates(schedule)
    _check_deadlock(tasks_of(schedule))
    if in_flight is not None:
        for rank, peak in enumerate(peak_in_flight(schedule)):
            if peak > in_flight:
                raise ScheduleError(f"rank {rank} holds {peak} forwards without their backward: more than {in_flight}")


def peak_in_flight(schedule: Schedule) -> tuple[int, ...]:
    """By rank: the most forwards at once whose backward (W, where it is split) isn't done."""
    peaks = []
    for actions in schedule.actions:
        count = peak = 0
        for action in actions:
            count += (action.kind is Kind.F) - (action.kind in (Kind.B, Kind.W))
            peak = max(peak, count)
        peaks.append(peak)
    return tuple(peaks)


def _check_paths(schedule: Schedule) -> None:
    if not schedule.paths:
        raise ScheduleError("there is no micro-batch")
    for m, path in enumerate(schedule.paths):
        if not path:
            raise ScheduleError(f"micro-batch {m} visits no stage")
        stages = [hop.stage for hop in path]
        if len(set(stages)) < len(stages):
            raise ScheduleError(f"micro-batch {m} visits a stage twice: {stages}")
        for hop in path:
            if not 0 <= hop.rank < schedule.ranks or hop.stage < 0:
                raise ScheduleError(
                    f"micro-batch {m} visits stage {hop.stage} on rank {hop.rank}: of {schedule.ranks} ranks"
                )


def _places(schedule: Schedule) -> Places:
    """Where each action stands; refuses doubles, and actions that no path asks for."""
    found: Places = {}
    hops = [set(path) for path in schedule.paths]
    for rank, actions in enumerate(schedule.actions):
        for i, action in enumerate(actions):
            kind, stage, m = action.kind, action.stage, action.microbatch
            if kind is not Kind.UPDATE and kind is not Kind.REDUCE and not 0 <= m < schedule.microbatches:
                raise ScheduleError(f"rank {rank}: {action}: there is no micro-batch {m} of {schedule.microbatches}")
            if kind in HOP_KINDS and Hop(stage, rank) not in hops[m]:
                raise ScheduleError(f"rank {rank}: {action}: micro-batch {m} doesn't visit stage {stage} here")
            key = (rank, kind, stage if kind in HOP_KINDS or kind is Kind.REDUCE else -1, m)
            if key in found:
                raise ScheduleError(f"rank {rank} has {action} twice")
            found[key] = i
    return found


def _check_hops(schedule: Schedule, places: Places, done: frozenset[Kind]) -> None:
    for m, path in enumerate(schedule.paths):
        for stage, rank in path:
            here = {kind: i for kind in HOP_KINDS if (i := places.get((rank, kind, stage, m))) is not None}
            name = f"rank {rank}: micro-batch {m} at stage {stage}"
            if Kind.F not in here:
                raise ScheduleError(f"{name} has no F")
            backward = [kind.value for kind in (Kind.B, Kind.I, Kind.W) if kind in here]
            if Kind.B in done and backward not in (["B"], ["I", "W"]):
                raise ScheduleError(f"{name} has {' and '.join(backward) or 'no backward'}: must be B, or I and W")
            if (Kind.OFFLOAD in here) != (Kind.FETCH in here):
                raise ScheduleError(f"{name} has one of OFFLOAD and FETCH without the other")
            for first, then in ORDER:
                if first in here and then in here and here[first] > here[then]:
                    after = schedule.actions[rank][here[first]]
                    raise ScheduleError(f"rank {rank}: {schedule.actions[rank][here[then]]} comes before {after}")


def _check_messages(schedule: Schedule, places: Places, done: frozenset[Kind]) -> None:
    if not any(action.kind in MESSAGES for actions in schedule.actions for action in actions):
        return
    wanted = 0
    for m, path in enumerate(schedule.paths):
        for here, there in pairwise(path):
            if here.rank == there.rank:
                continue
            for kind, hop, other in (
                (Kind.SEND_F, here, there),
                (Kind.RECV_F, there, here),
                (Kind.SEND_B, there, here),
                (Kind.RECV_B, here, there),
            ):
                if kind not in done:
                    continue
                action = Action(kind, hop.stage, m, other.rank, other.stage)
                place = places.get((hop.rank, kind, hop.stage, m))
                if place is None or schedule.actions[hop.rank][place] != action:
                    raise ScheduleError(f"rank {hop.rank} lacks {action} (stage {other.stage} there)")
                wanted += 1
    if wanted < sum(kind in MESSAGES for _, kind, _, _ in places):
        rank, extra = next(
            (rank, action)
            for rank, actions in enumerate(schedule.actions)
            for action in actions
            if action.kind in MESSAGES and not _is_wanted(schedule, rank, action)
        )
        raise ScheduleError(f"rank {rank}: {extra} isn't on the path of micro-batch {extra.microbatch}")
    _check_order_of_messages(schedule)


def _is_wanted(schedule: Schedule, rank: int, action: Action) -> bool:
    path = schedule.paths[action.microbatch]
    hop = path.index(Hop(action.stage, rank))
    other = hop + (1 if action.kind in (Kind.SEND_F, Kind.RECV_B) else -1)
    return 0 <= other < len(path) and path[other].rank != rank


def _check_order_of_messages(schedule: Schedule) -> None:
    sent: dict[tuple[bool, int, int], list[tuple[int, int, int]]] = defaultdict(list)
    received: dict[tuple[bool, int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for rank, actions in enumerate(schedule.actions):
        for a in actions:
            if a.kind in SENDS:
                sent[a.kind is Kind.SEND_F, rank, a.peer].append((a.stage, a.peer_stage, a.microbatch))
            elif a.kind in RECEIVES:
                received[a.kind is Kind.RECV_F, a.peer, rank].append((a.peer_stage, a.stage, a.microbatch))
    for (forward, source, to), messages in sent.items():
        for one, other in zip(messages, received[forward, source, to], strict=True):
            if one != other:
                send, receive = (Kind.SEND_F, Kind.RECV_F) if forward else (Kind.SEND_B, Kind.RECV_B)
                raise ScheduleError(
                    f"rank {source} sends {Action(send, one[0], one[2], to)} where rank {to} expects "
                    f"{Action(receive, other[1], other[2], source)}: both ends must have one order"
                )


def _check_passes(schedule: Schedule, places: Places, done: frozenset[Kind]) -> None:
    """The passes of the vocabulary and their collectives: complete, and in order."""
    present = {kind for _, kind, _, _ in places}
    for family in PASSES:
        if not present & family:
            continue
        for kind in sorted(family & done):
            for rank in range(schedule.ranks):
                for m in range(schedule.microbatches):
                    if (rank, kind, -1, m) not in places:
                        raise ScheduleError(f"rank {rank} lacks {Action(kind, microbatch=m)}, where others have it")
    for rank in range(schedule.ranks):
        for m in range(schedule.microbatches):
            for first, then in PASS_ORDER:
                _check_before(schedule, places, (rank, first, -1, m), (rank, then, -1, m))
    for m, path in enumerate(schedule.paths):
        for first, then, end in AT_ENDS:
            stage, rank = path[end]
            keys = [(rank, kind, stage if kind in HOP_KINDS else -1, m) for kind in (first, then)]
            _check_before(schedule, places, keys[0], keys[1])


def _check_before(
    schedule: Schedule, places: Places, first: tuple[int, Kind, int, int], then: tuple[int, Kind, int, int]
) -> None:
    one, other = places.get(first), places.get(then)
    if one is not None and other is not None and one > other:
        actions = schedule.actions[first[0]]
        raise ScheduleError(f"rank {first[0]}: {actions[other]} comes before {actions[one]}")


def _check_reductions(schedule: Schedule, places: Places) -> None:
    reductions = {a for actions in schedule.actions for a in actions if a.kind is Kind.REDUCE}
    for reduce in sorted(reductions):
        stages = {reduce.stage, reduce.peer_stage} - {-1}
        taking_part = {rank for stage in stages for rank in schedule.holders(stage)}
        for rank in range(schedule.ranks):
            place = places.get((rank, Kind.REDUCE, reduce.stage, -1))
            if (place is not None and schedule.actions[rank][place] == reduce) != (rank in taking_part):
                has = "lacks" if rank in taking_part else "has"
                raise ScheduleError(f"rank {rank} {has} {reduce}, in which ranks {sorted(taking_part)} take part")
            for action in schedule.actions[rank][place:] if place is not None else ():
                if action.kind in (Kind.B, Kind.I, Kind.W) and action.stage in stages:
                    raise ScheduleError(f"rank {rank}: {reduce} comes before {action}")


def _check_updates(schedule: Schedule) -> None:
    having = [any(a.kind is Kind.UPDATE for a in actions) for actions in schedule.actions]
    for rank, actions in enumerate(schedule.actions):
        if not having[rank] and any(having):
            raise ScheduleError(f"rank {rank} lacks UPDATE, which others have")
        if having[rank] and actions[-1].kind is not Kind.UPDATE:
            raise ScheduleError(f"rank {rank}: UPDATE comes before {actions[-1]}")


def _check_deadlock(tasks: Tasks) -> None:
    """Whether all tasks can be done, those of one stream in their order."""
    needs = [set(each) for each in tasks.needs]
    last: dict[tuple[object, ...], int] = {}
    for i, task in enumerate(tasks.tasks):
        for place in task.places:
            key = (task.stream, place.rank)
            if task.stream.what != "compute" and key in last:
                needs[i].add(last[key])
            last[key] = i
    waits = [len(each) for each in needs]
    followers: list[list[int]] = [[] for _ in needs]
    for i, each in enumerate(needs):
        for need in each:
            followers[need].append(i)
    ready = deque(i for i, n in enumerate(waits) if n == 0)
    left = len(needs)
    while ready:
        left -= 1
        for follower in followers[ready.popleft()]:
            waits[follower] -= 1
            if waits[follower] == 0:
                ready.append(follower)
    if left:
        raise ScheduleError(f"deadlock: {_circle(tasks, needs, waits)}")


def _circle(tasks: Tasks, needs: list[set[int]], waits: list[int]) -> str:
    """Who waits for whom, in words."""
    chain: list[int] = []
    at = next(i for i, n in enumerate(waits) if n)
    while at not in chain:
        chain.append(at)
        at = min(need for need in needs[at] if waits[need])
    circle = chain[chain.index(at) :]
    names = [tasks.name(i) for i in circle[:6]]
    more = f", and so on over {len(circle) - 6} more," if len(circle) > 6 else ""
    return f"{', which waits for '.join([*names])}{more} waits for {names[0]} again"
