"""The pass that puts sends and receives into lists of bare compute."""

from __future__ import annotations

from grainline.schedule.actions import COMPUTE, Action, Kind
from grainline.schedule.schedule import Schedule

LOOKAHEAD = 1


def add_messages(schedule: Schedule, lookahead: int = LOOKAHEAD) -> Schedule:
    """A send right after what it carries was made, a receive `lookahead` compute actions before it is wanted.

    A receive posted ahead lets the message travel while the rank computes; more lookahead hides slower links and holds
    more received tensors at once. Both ends of a pair of ranks have their messages of one direction in one order:
    receives are sorted by when their sends are posted, as transports without tags need it.
    """
    hop_of = [{hop.stage: i for i, hop in enumerate(path)} for path in schedule.paths]
    sent_at: dict[tuple[Kind, int, int, int], int] = {}  # receive kind, receiver, its stage, micro-batch → when sent
    lists: list[list[list[Action]]] = []  # by rank and compute action: what follows it
    for rank, actions in enumerate(schedule.actions):
        after: list[list[Action]] = [[] for _ in actions]
        for i, action in enumerate(actions):
            send = _send(schedule, hop_of, rank, action)
            if send is not None:
                after[i].append(send)
                kind = Kind.RECV_F if send.kind is Kind.SEND_F else Kind.RECV_B
                sent_at[kind, send.peer, send.peer_stage, send.microbatch] = i
        lists.append(after)
    found = []
    for rank, actions in enumerate(schedule.actions):
        found.append(_with_receives(schedule, hop_of, rank, actions, lists[rank], sent_at, lookahead))
    return schedule.with_actions(found)


def _send(schedule: Schedule, hop_of: list[dict[int, int]], rank: int, action: Action) -> Action | None:
    """The message that must follow a compute action, if its result is wanted elsewhere."""
    if action.kind not in (Kind.F, Kind.B, Kind.I):
        return None
    path, hop = schedule.paths[action.microbatch], hop_of[action.microbatch][action.stage]
    forward = action.kind is Kind.F
    other = hop + 1 if forward else hop - 1
    if not 0 <= other < len(path) or path[other].rank == rank:
        return None
    kind = Kind.SEND_F if forward else Kind.SEND_B
    return Action(kind, action.stage, action.microbatch, path[other].rank, path[other].stage)


def _receive(schedule: Schedule, hop_of: list[dict[int, int]], rank: int, action: Action) -> Action | None:
    """The message that a compute action waits for, if its input comes from elsewhere."""
    if action.kind not in (Kind.F, Kind.B, Kind.I):
        return None
    path, hop = schedule.paths[action.microbatch], hop_of[action.microbatch][action.stage]
    forward = action.kind is Kind.F
    other = hop - 1 if forward else hop + 1
    if not 0 <= other < len(path) or path[other].rank == rank:
        return None
    kind = Kind.RECV_F if forward else Kind.RECV_B
    return Action(kind, action.stage, action.microbatch, path[other].rank, path[other].stage)


def _with_receives(
    schedule: Schedule,
    hop_of: list[dict[int, int]],
    rank: int,
    actions: tuple[Action, ...],
    after: list[list[Action]],
    sent_at: dict[tuple[Kind, int, int, int], int],
    lookahead: int,
) -> list[Action]:
    compute = [i for i, action in enumerate(actions) if action.kind in COMPUTE]
    rank_in_compute = {i: n for n, i in enumerate(compute)}
    before: list[list[Action]] = [[] for _ in actions]  # receives to post before an action
    latest: dict[tuple[Kind, int], list[tuple[int, int, Action]]] = {}
    for i, action in enumerate(actions):
        receive = _receive(schedule, hop_of, rank, action)
        if receive is not None:
            at = compute[max(0, rank_in_compute[i] - lookahead)]
            sent = sent_at[receive.kind, rank, receive.stage, receive.microbatch]
            latest.setdefault((receive.kind, receive.peer), []).append((sent, at, receive))
    for messages in latest.values():
        messages.sort(key=lambda m: m[0])
        at = len(actions)
        # In the sender's order, and none later than it is wanted: a receive moves forward past an earlier one's place.
        places = []
        for _, wanted, receive in reversed(messages):
            at = min(at, wanted)
            places.append((at, receive))
        for at, receive in reversed(places):
            before[at].append(receive)
    found: list[Action] = []
    for i, action in enumerate(actions):
        found += [*before[i], action, *after[i]]
    return found
