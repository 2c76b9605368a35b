"""Carries out a schedule's lists by brute force: ranks as coroutines that pass values, nothing known of tasks or rules.

A value is a hash of what made it, so that a missing piece, a wrong order or a mixed-up message changes the result.
Transports are plain: the n-th send from one rank to another meets the n-th receive, whatever either thinks it is; a
rank's collectives run in the order in which it posts them, and only when all who take part have come to theirs.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from grainline.schedule import Action, Kind, Schedule

Lists = Sequence[Sequence[Action]]
Result = dict[tuple[Any, ...], Any]
Wait = Generator[None, None, None]


class Fails(Exception):
    """Hangs, or has nothing to work on."""


def mix(*parts: Any) -> int:
    """A value that tells its makers and their order."""
    return hash(parts)


class World:
    """What a schedule means to do, taken from the lists as they should be."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.kinds = {a.kind for actions in schedule.actions for a in actions}
        self.reductions = {a for actions in schedule.actions for a in actions if a.kind is Kind.REDUCE}

    def taking_part(self, action: Action) -> tuple[int, ...]:
        if action.kind is not Kind.REDUCE:
            return tuple(range(self.schedule.ranks))
        stages = {action.stage, action.peer_stage}
        return tuple(sorted({hop.rank for path in self.schedule.paths for hop in path if hop.stage in stages}))

    def reference(self) -> Result:
        """The same step by one process, micro-batch after micro-batch."""
        ranks, found = self.schedule.ranks, {}
        gradients: dict[tuple[int, Any], list[int]] = defaultdict(list)
        for m, path in enumerate(self.schedule.paths):
            x, inputs = mix("data", m), []
            if Kind.EMBED in self.kinds:
                x = mix("C_EMBED", tuple(mix("EMBED", rank, m) for rank in range(ranks)))
            for stage, _ in path:
                inputs.append(x)
                x = mix("F", stage, x)
            found["output", m] = x
            gradient = mix("loss", x)
            if Kind.S in self.kinds:
                statistics = mix("C1", tuple(mix("S", rank, x) for rank in range(ranks)))
                rests = [mix("T", rank, statistics) for rank in range(ranks)]
                for rank, rest in enumerate(rests):
                    gradients[rank, "head"].append(rest)
                gradient = mix("C2", tuple(rests)) if Kind.C2 in self.kinds else statistics
            for (stage, rank), x in zip(reversed(path), reversed(inputs), strict=True):
                gradients[rank, stage].append(mix("W", stage, x, gradient))
                gradient = mix("B", stage, x, gradient)
            found["gradient", m] = gradient
            if Kind.EMBED_GRAD in self.kinds:
                for rank in range(ranks):
                    gradients[rank, "embedding"].append(mix("EMBED_GRAD", rank, gradient))
        for reduce in self.reductions:
            of = {reduce.stage, reduce.peer_stage} - {-1}
            parts = [g for rank in range(ranks) for s in of for g in gradients.get((rank, s), ())]
            for rank in self.taking_part(reduce):
                gradients[rank, ("reduced", reduce.stage)] = parts
        for (rank, what), parts in gradients.items():
            found["weights", rank, what] = sorted(parts)
        return found


class Rank:
    """One rank: its memory, and its way through its list."""

    def __init__(self, machine: Machine, rank: int, actions: Sequence[Action]) -> None:
        self.machine, self.rank, self.actions = machine, rank, actions
        self.world = machine.world
        self.kept: dict[tuple[int, int], int] = {}  # inputs, for the backward
        self.away: dict[tuple[int, int], int] = {}  # in host memory
        self.output: dict[tuple[int, int], int] = {}
        self.gradient: dict[tuple[int, int], int] = {}
        self.queued: dict[tuple[int, int], int] = {}
        self.partial: dict[tuple[Kind, int], int] = {}  # what this rank puts into a collective
        self.received: dict[tuple[Kind, int, int], list[int]] = {}  # posted; holds the value once it's there
        self.collected: dict[tuple[Kind, int], list[Any]] = {}  # posted; holds the result once it's there
        self.weights: dict[Any, list[int]] = defaultdict(list)
        self.updated: dict[Any, list[int]] | None = None

    def run(self) -> Wait:
        for action in self.actions:
            if self.updated is not None:
                raise Fails(f"{action} after the update")
            handler: Callable[[Action], Wait] = getattr(self, f"do_{action.kind.value.lower()}")
            yield from handler(action)

    def wait(self, box: list[Any] | None, what: str) -> Generator[None, None, Any]:
        if box is None:
            raise Fails(f"rank {self.rank}: nobody asked for {what}")
        while not box:
            yield
        return box[0]

    def take(self, table: dict[Any, int], key: Any, what: str) -> int:
        if key not in table:
            raise Fails(f"rank {self.rank}: no {what} of {key}")
        return table[key]

    def hop(self, action: Action) -> tuple[int, Any]:
        path = self.world.schedule.paths[action.microbatch]
        return next(i for i, hop in enumerate(path) if hop == (action.stage, self.rank)), path

    def do_f(self, action: Action) -> Wait:
        (hop, path), (stage, m) = self.hop(action), (action.stage, action.microbatch)
        if hop == 0:
            x = mix("data", m)
            if Kind.EMBED in self.world.kinds:
                x = yield from self.wait(self.collected.get((Kind.C_EMBED, m)), "embeddings")
        elif path[hop - 1].rank == self.rank:
            x = self.take(self.output, (path[hop - 1].stage, m), "output")
        else:
            x = yield from self.wait(self.received.get((Kind.RECV_F, stage, m)), str(action))
        self.kept[stage, m] = x
        self.output[stage, m] = mix("F", stage, x)

    def do_r(self, action: Action) -> Wait:
        self.take(self.kept, (action.stage, action.microbatch), "kept input")
        yield from ()

    def do_offload(self, action: Action) -> Wait:
        key = action.stage, action.microbatch
        self.away[key] = self.take(self.kept, key, "kept input")
        del self.kept[key]
        yield from ()

    def do_fetch(self, action: Action) -> Wait:
        key = action.stage, action.microbatch
        self.kept[key] = self.take(self.away, key, "input in host memory")
        del self.away[key]
        yield from ()

    def backward(self, action: Action) -> Generator[None, None, int]:
        (hop, path), (stage, m) = self.hop(action), (action.stage, action.microbatch)
        if hop == len(path) - 1:
            gradient = mix("loss", self.take(self.output, (stage, m), "output"))
            if Kind.S in self.world.kinds:
                kind = Kind.C2 if Kind.C2 in self.world.kinds else Kind.C1
                gradient = yield from self.wait(self.collected.get((kind, m)), "the head's gradient")
        elif path[hop + 1].rank == self.rank:
            gradient = self.take(self.gradient, (path[hop + 1].stage, m), "gradient")
        else:
            gradient = yield from self.wait(self.received.get((Kind.RECV_B, stage, m)), str(action))
        x = self.take(self.kept, (stage, m), "kept input")
        del self.kept[stage, m]
        self.gradient[stage, m] = mix("B", stage, x, gradient)
        return mix("W", stage, x, gradient)

    def do_b(self, action: Action) -> Wait:
        self.weights[action.stage].append((yield from self.backward(action)))

    def do_i(self, action: Action) -> Wait:
        self.queued[action.stage, action.microbatch] = yield from self.backward(action)

    def do_w(self, action: Action) -> Wait:
        key = action.stage, action.microbatch
        self.weights[action.stage].append(self.take(self.queued, key, "queued work"))
        del self.queued[key]
        yield from ()

    def do_send_f(self, action: Action) -> Wait:
        value = self.take(self.output, (action.stage, action.microbatch), "output to send")
        self.machine.sent[True, self.rank, action.peer].append(value)
        yield from ()

    def do_send_b(self, action: Action) -> Wait:
        value = self.take(self.gradient, (action.stage, action.microbatch), "gradient to send")
        self.machine.sent[False, self.rank, action.peer].append(value)
        yield from ()

    def do_recv_f(self, action: Action) -> Wait:
        box = self.received.setdefault((action.kind, action.stage, action.microbatch), [])
        self.machine.wanted[True, action.peer, self.rank].append(box)
        yield from ()

    def do_recv_b(self, action: Action) -> Wait:
        box = self.received.setdefault((action.kind, action.stage, action.microbatch), [])
        self.machine.wanted[False, action.peer, self.rank].append(box)
        yield from ()

    def do_s(self, action: Action) -> Wait:
        x = yield from self.wait(self.collected.get((Kind.C0, action.microbatch)), str(action))
        self.partial[Kind.C1, action.microbatch] = mix("S", self.rank, x)

    def do_t(self, action: Action) -> Wait:
        statistics = yield from self.wait(self.collected.get((Kind.C1, action.microbatch)), str(action))
        self.partial[Kind.C2, action.microbatch] = mix("T", self.rank, statistics)
        self.weights["head"].append(mix("T", self.rank, statistics))

    def do_embed(self, action: Action) -> Wait:
        self.partial[Kind.C_EMBED, action.microbatch] = mix("EMBED", self.rank, action.microbatch)
        yield from ()

    def do_embed_grad(self, action: Action) -> Wait:
        gradient = yield from self.wait(self.collected.get((Kind.C_EMBED_GRAD, action.microbatch)), str(action))
        self.weights["embedding"].append(mix("EMBED_GRAD", self.rank, gradient))

    def post(self, action: Action, payload: Any) -> Wait:
        key = (action.kind, action.stage if action.kind is Kind.REDUCE else action.microbatch)
        self.machine.posted[self.rank].append((action, payload, self.collected.setdefault(key, [])))
        yield from ()

    def do_c0(self, action: Action) -> Wait:
        last = self.world.schedule.paths[action.microbatch][-1]
        own = last.rank == self.rank
        yield from self.post(action, self.take(self.output, (last.stage, action.microbatch), "output") if own else None)

    def do_c_embed_grad(self, action: Action) -> Wait:
        first = self.world.schedule.paths[action.microbatch][0]
        own = first.rank == self.rank
        key = first.stage, action.microbatch
        yield from self.post(action, self.take(self.gradient, key, "gradient") if own else None)

    def _sum(self, action: Action) -> Wait:
        yield from self.post(action, self.take(self.partial, (action.kind, action.microbatch), "part"))

    do_c1 = do_c2 = do_c_embed = _sum

    def do_reduce(self, action: Action) -> Wait:
        of = {action.stage, action.peer_stage} - {-1}
        yield from self.post(action, [g for stage in of for g in self.weights.get(stage, ())])

    def do_update(self, action: Action) -> Wait:
        found = {what: sorted(parts) for what, parts in self.weights.items()}
        for reduce in self.world.reductions:
            if self.rank in self.world.taking_part(reduce):
                box = self.collected.get((Kind.REDUCE, reduce.stage))
                found["reduced", reduce.stage] = yield from self.wait(box, str(reduce))
        self.updated = found


class Machine:
    """All ranks, and what travels between them."""

    def __init__(self, world: World, lists: Lists) -> None:
        self.world = world
        self.sent: dict[tuple[bool, int, int], deque[int]] = defaultdict(deque)
        self.wanted: dict[tuple[bool, int, int], deque[list[int]]] = defaultdict(deque)
        self.posted: list[deque[tuple[Action, Any, list[Any]]]] = [deque() for _ in lists]
        self.ranks = [Rank(self, rank, actions) for rank, actions in enumerate(lists)]

    def run(self) -> Result:
        """Until every rank has done its list, and all that was begun has ended. Raises Fails."""
        running = {rank.rank: rank.run() for rank in self.ranks}
        while True:
            moved = self._move()
            before = [len(self.posted[r]) for r in range(len(self.ranks))], sum(map(len, self.sent.values()))
            for r, coroutine in list(running.items()):
                try:
                    next(coroutine)
                except StopIteration:
                    del running[r]
                    moved = True
            after = [len(self.posted[r]) for r in range(len(self.ranks))], sum(map(len, self.sent.values()))
            if not moved and before == after and not self._move():
                break
        if running:
            raise Fails(f"ranks {sorted(running)} hang")
        if any(self.sent.values()) or any(self.wanted.values()) or any(self.posted):
            raise Fails("something was begun and never ends")
        if any(rank.queued for rank in self.ranks):
            raise Fails("weight gradients are left")
        return self._result()

    def _move(self) -> bool:
        """Deliver what can be delivered."""
        moved = False
        for channel, values in self.sent.items():
            boxes = self.wanted[channel]
            while values and boxes:
                boxes.popleft().append(values.popleft())
                moved = True
        for rank, queue in enumerate(self.posted):
            while queue:
                action = queue[0][0]
                part = self.world.taking_part(action)
                if rank not in part or any(not self.posted[r] for r in part):
                    break
                heads = [self.posted[r][0] for r in part]
                if any(self.world.taking_part(head[0]) != part for head in heads):
                    break
                if any(head[0] != action for head in heads):
                    raise Fails(f"collectives that don't match: {[str(head[0]) for head in heads]}")
                result = self._collect(action, [head[1] for head in heads])
                for r, head in zip(part, heads, strict=True):
                    self.posted[r].popleft()
                    head[2].append(result)
                moved = True
        return moved

    def _collect(self, action: Action, payloads: list[Any]) -> Any:
        if action.kind is Kind.REDUCE:
            return sorted(g for payload in payloads for g in payload)
        if action.kind in (Kind.C0, Kind.C_EMBED_GRAD):
            return next(payload for payload in payloads if payload is not None)
        return mix(action.kind.value, tuple(payloads))

    def _result(self) -> Result:
        found: Result = {}
        for m, path in enumerate(self.world.schedule.paths):
            for what, (stage, rank) in (("output", path[-1]), ("gradient", path[0])):
                here = self.ranks[rank]
                found[what, m] = (here.output if what == "output" else here.gradient).get((stage, m))
        updates = Kind.UPDATE in self.world.kinds
        for rank in self.ranks:
            if updates and rank.updated is None:
                raise Fails(f"rank {rank.rank} never updates")
            weights = rank.updated if rank.updated is not None else rank.weights
            for what, parts in weights.items():
                found["weights", rank.rank, what] = sorted(parts)
        return found


def runs_rightly(world: World, lists: Lists) -> bool:
    """Whether the lists come to an end, with the one process's result."""
    try:
        return Machine(world, lists).run() == world.reference()
    except Fails:
        return False
