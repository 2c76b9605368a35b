"""What waits for what, action by action: slow and plain, for tests to hold the columns of `dependencies.py` to."""

from collections import defaultdict
from collections.abc import Iterator

from grainline.schedule import Action, Kind, Schedule, ScheduleError
from grainline.schedule.actions import COLLECTIVES, COPIES, RECEIVES, SENDS
from grainline.schedule.dependencies import Place, Stream, Task
from grainline.schedule.schedule import Hop

Plain = tuple[tuple[Task, ...], tuple[tuple[int, ...], ...]]


def plain_tasks_of(schedule: Schedule) -> Plain:
    """Tasks and needs."""
    for a in (a for actions in schedule.actions for a in actions):
        if min(a.stage, a.microbatch, a.peer, a.peer_stage) < -1:
            raise ScheduleError("a number below -1")
    tasks = list(_tasks(schedule))
    index = {place: i for i, task in enumerate(tasks) for place in task.places}
    find = _Finder(schedule, index)
    needs: list[set[int]] = [set() for _ in tasks]
    for rank, actions in enumerate(schedule.actions):
        before = -1  # the compute that came last
        collective = -1
        for i, action in enumerate(actions):
            task = index[Place(rank, i)]
            if before >= 0 and before != task:
                needs[task].add(before)
            if action.kind in COLLECTIVES:
                if collective >= 0:
                    needs[task].add(collective)
                collective = task
            elif action.kind not in SENDS | RECEIVES | COPIES:
                before = task
            needs[task].update(find.inputs(rank, action))
    return tuple(tasks), tuple(tuple(sorted(n)) for n in needs)


def _tasks(schedule: Schedule) -> Iterator[Task]:
    waiting: dict[tuple[object, ...], tuple[Place, Action]] = {}
    collectives: dict[Action, list[Place]] = defaultdict(list)
    for rank, actions in enumerate(schedule.actions):
        for i, action in enumerate(actions):
            place = Place(rank, i)
            if action.kind in COLLECTIVES:
                if any(p.rank == rank for p in collectives[action]):
                    raise ScheduleError(f"rank {rank} has {action} twice")
                collectives[action].append(place)
            elif action.kind in SENDS or action.kind in RECEIVES:
                if not 0 <= action.peer < schedule.ranks:
                    raise ScheduleError(f"rank {rank}: {action} has no peer among the {schedule.ranks} ranks")
                key, is_send = _message(rank, action), action.kind in SENDS
                other = waiting.pop((*key, not is_send), None)
                if other is None:
                    if (*key, is_send) in waiting:
                        raise ScheduleError(f"rank {rank} has {action} twice")
                    waiting[*key, is_send] = place, action
                    continue
                first, second = (place, other[0]) if is_send else (other[0], place)
                sent = action if is_send else other[1]
                way = "forward" if sent.kind is Kind.SEND_F else "backward"
                yield Task(sent, (first, second), Stream(way, first.rank, second.rank))
            else:
                what = "copy" if action.kind in COPIES else "compute"
                yield Task(action, (place,), Stream(what, rank))
    for place, action in waiting.values():
        met = "receive" if action.kind in SENDS else "send"
        raise ScheduleError(f"rank {place.rank}: {action} meets no {met} on rank {action.peer}")
    for action, places in collectives.items():
        yield Task(action, tuple(places), Stream("collective", places[0].rank))


def _message(rank: int, action: Action) -> tuple[object, ...]:
    """The same key for both ends of a message."""
    forward = action.kind in (Kind.SEND_F, Kind.RECV_F)
    here, there = (rank, action.stage), (action.peer, action.peer_stage)
    ends = (here, there) if action.kind in SENDS else (there, here)
    return (forward, *ends, action.microbatch)


class _Finder:
    """Finds the tasks that give an action its inputs."""

    def __init__(self, schedule: Schedule, index: dict[Place, int]) -> None:
        self.schedule = schedule
        self.at: dict[tuple[int, Kind, int, int], int] = {}  # by rank, kind, stage, micro-batch
        self.passes: dict[tuple[Kind, int], list[int]] = defaultdict(list)  # of all ranks, by kind and micro-batch
        self.hop: list[dict[int, int]] = [{hop.stage: i for i, hop in enumerate(path)} for path in schedule.paths]
        self.gradients: dict[int, list[int]] = defaultdict(list)  # of a rank: what UPDATE waits for
        self.of_stage: dict[int, list[int]] = defaultdict(list)
        for place, task in index.items():
            action = schedule.actions[place.rank][place.at]
            key = place.rank, action.kind, action.stage, action.microbatch
            if key in self.at and action.kind not in SENDS | RECEIVES:
                raise ScheduleError(f"rank {place.rank} has {action} twice")
            self.at[key] = task
            self.passes[action.kind, action.microbatch].append(task)
            if action.kind in (Kind.B, Kind.I, Kind.W, Kind.T, Kind.S, Kind.EMBED_GRAD, Kind.REDUCE):
                self.gradients[place.rank].append(task)
            if action.kind in (Kind.B, Kind.I, Kind.W):
                self.of_stage[action.stage].append(task)

        self.bare = not any(kind in SENDS for kind, _ in self.passes)  # `add_messages` hasn't been applied yet

    def inputs(self, rank: int, action: Action) -> Iterator[int]:
        """Tasks whose results `action` uses."""
        kind, stage, m = action.kind, action.stage, action.microbatch
        match kind:
            case Kind.F:
                yield from self._forward_input(rank, stage, m)
            case Kind.R:
                yield self._need(rank, action, Kind.F)
                if (found := self.at.get((rank, Kind.FETCH, stage, m))) is not None:
                    yield found
            case Kind.B | Kind.I:
                yield self._need(rank, action, Kind.F)
                for extra in (Kind.R, Kind.FETCH):
                    if (found := self.at.get((rank, extra, stage, m))) is not None:
                        yield found
                yield from self._backward_input(rank, stage, m)
            case Kind.W:
                yield self._need(rank, action, Kind.I)
            case Kind.SEND_F | Kind.OFFLOAD:
                yield self._need(rank, action, Kind.F)
            case Kind.FETCH:
                yield self._need(rank, action, Kind.OFFLOAD)
            case Kind.SEND_B:
                yield self._gradient(rank, stage, m)
            case Kind.S:
                yield from self._all(action, Kind.C0)
            case Kind.T:
                yield from self._all(action, Kind.C1)
            case Kind.EMBED_GRAD:
                yield from self._all(action, Kind.C_EMBED_GRAD)
            case Kind.C1:
                yield from self._all(action, Kind.S)
            case Kind.C2:
                yield from self._all(action, Kind.T)
            case Kind.C_EMBED:
                yield from self._all(action, Kind.EMBED)
            case Kind.C0 | Kind.C_EMBED_GRAD if not 0 <= m < self.schedule.microbatches:
                raise ScheduleError("there is no such micro-batch")
            case Kind.C0:
                last = self.schedule.paths[m][-1]
                yield self._find(last.rank, Kind.F, last.stage, m, f"rank {rank}: {action}")
            case Kind.C_EMBED_GRAD:
                first = self.schedule.paths[m][0]
                yield self._gradient(first.rank, first.stage, m)
            case Kind.REDUCE:
                yield from self.of_stage[stage]
            case Kind.UPDATE:
                yield from self.gradients[rank]

    def _hop(self, rank: int, stage: int, m: int) -> int:
        if not 0 <= m < self.schedule.microbatches:
            raise ScheduleError(f"rank {rank}: there is no micro-batch {m} of {self.schedule.microbatches}")
        found = self.hop[m].get(stage)
        if found is None or self.schedule.paths[m][found] != Hop(stage, rank):
            raise ScheduleError(f"rank {rank}: micro-batch {m} doesn't visit stage {stage} here")
        return found

    def _forward_input(self, rank: int, stage: int, m: int) -> Iterator[int]:
        hop = self._hop(rank, stage, m)
        if hop == 0:
            if self.passes.get((Kind.C_EMBED, m)):
                yield self.passes[Kind.C_EMBED, m][0]
            return
        before = self.schedule.paths[m][hop - 1]
        if before.rank == rank:
            yield self._find(rank, Kind.F, before.stage, m, f"rank {rank}: F{stage}.{m}")
        elif not self.bare:
            yield self._find(rank, Kind.RECV_F, stage, m, f"rank {rank}: F{stage}.{m}")
        else:
            yield self._find(before.rank, Kind.F, before.stage, m, f"rank {rank}: F{stage}.{m}")

    def _backward_input(self, rank: int, stage: int, m: int) -> Iterator[int]:
        hop, path = self._hop(rank, stage, m), self.schedule.paths[m]
        if hop == len(path) - 1:
            for collective in (Kind.C2, Kind.C1):
                if self.passes.get((collective, m)):
                    yield self.passes[collective, m][0]
                    break
            return
        after = path[hop + 1]
        if after.rank == rank or self.bare:
            yield self._gradient(after.rank, after.stage, m)
        else:
            yield self._find(rank, Kind.RECV_B, stage, m, f"rank {rank}: backward of stage {stage}, micro-batch {m}")

    def _gradient(self, rank: int, stage: int, m: int) -> int:
        """The task that gives the gradient of a stage's input: its B or I."""
        found = self.at.get((rank, Kind.B, stage, m), self.at.get((rank, Kind.I, stage, m)))
        if found is None:
            raise ScheduleError(f"rank {rank} has no backward of stage {stage}, micro-batch {m}")
        return found

    def _need(self, rank: int, action: Action, kind: Kind) -> int:
        return self._find(rank, kind, action.stage, action.microbatch, f"rank {rank}: {action}")

    def _all(self, action: Action, kind: Kind) -> Iterator[int]:
        found = self.passes.get((kind, action.microbatch))
        if not found:
            raise ScheduleError(f"{action} needs {kind} of micro-batch {action.microbatch}: in no list")
        yield from found

    def _find(self, rank: int, kind: Kind, stage: int, m: int, why: str) -> int:
        found = self.at.get((rank, kind, stage, m))
        if found is None:
            raise ScheduleError(f"{why} needs {Action(kind, stage, m)} on rank {rank}: in no list there")
        return found
