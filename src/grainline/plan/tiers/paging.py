"""Paging by look-ahead over a known order of operators, as a TaskGraph that the simulator plays; and its closed forms.

A stream fetches what coming operators need while another computes; dirty tensors go back over the port's other
direction. Reconstructed from FengHuang's description (arXiv 2511.10753): in operator order, with compute c, bytes b and
look-ahead w,

    fetch starts = max(fetch ends[i−1], compute ends[i−w−1], compute ends[j]),  j the smallest with Σ b[j+1..i] ≤ C
    compute starts[i] = max(compute ends[i−1], fetch ends[i])
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from grainline.documents import GrainlineError
from grainline.plan.tiers.residents import Residents
from grainline.schedule.actions import Action, Kind
from grainline.schedule.simulator.graph import Link, Memory, Ragged, TaskGraph, Tier
from grainline.schedule.simulator.simulate import simulate
from grainline.schedule.timeline import Timeline, rank_tier

COMPUTE, IN, OUT = 0, 1, 2
STREAMS = ("compute", "page in", "page out")


@dataclass(frozen=True)
class Operator:
    """One step of the order: how long it computes, the tensors that it uses, and bytes that it changes in them.

    `known_after` is the operator that says which tensors these are (a router): nothing is fetched before it has ended.
    What it `makes` of them comes into being here, and isn't fetched.
    """

    name: str
    seconds: float
    uses: tuple[str, ...] = ()
    writes: Mapping[str, float] = field(default_factory=dict)
    known_after: int | None = None
    makes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Port:
    """A device's way to the remote tier, each direction at its own rate."""

    read_bytes_per_second: float
    write_bytes_per_second: float
    read_seconds: float = 0.0  # latency
    write_seconds: float = 0.0

    def __post_init__(self) -> None:
        for key in ("read_bytes_per_second", "write_bytes_per_second"):
            if not getattr(self, key) > 0:
                raise GrainlineError(
                    f"{key} {getattr(self, key)}: a tier without bandwidth pages nothing; give it one."
                )


@dataclass(frozen=True)
class Paged:
    """What became of an order of operators."""

    operators: tuple[Operator, ...]
    timeline: Timeline
    compute_end: np.ndarray[tuple[int], np.dtype[np.float64]]  # by operator
    stall_seconds: np.ndarray[tuple[int], np.dtype[np.float64]]  # by operator: it waited so long for its tensors
    fetched_bytes: np.ndarray[tuple[int], np.dtype[np.float64]]  # by operator
    written_bytes: float
    peak_bytes: float

    def seconds(self, first: int, last: int) -> float:
        """From the end of what is before operator `first` to the end of operator `last`."""
        return float(self.compute_end[last] - (self.compute_end[first - 1] if first else 0.0))


def page(
    operators: Sequence[Operator],
    sizes: Mapping[str, float],
    port: Port,
    *,
    budget_bytes: float = float("inf"),
    lookahead: int = 1,
    pinned: frozenset[str] = frozenset(),
    volatile: frozenset[str] = frozenset(),
) -> Paged:
    """Play the order with at most `budget_bytes` of local memory, looking `lookahead` operators ahead.

    Raises GrainlineError for a tensor that was never placed, for an operator that doesn't fit, for one that looks ahead
    of what says its tensors, and for a negative look-ahead.
    """
    if lookahead < 0:
        raise GrainlineError(f"lookahead {lookahead}: can't be negative; 0 fetches nothing ahead.")
    for i, one in enumerate(operators):
        for name in (*one.uses, *one.writes):
            if name not in sizes:
                raise GrainlineError(
                    f"operator {one.name} uses '{name}', which was never placed. Place it: give its size."
                )
        if any(name not in one.uses for name in one.writes):
            raise GrainlineError(f"operator {one.name} writes what it doesn't use; name it in `uses` as well.")
        if one.known_after is not None and not 0 <= one.known_after < i:
            raise GrainlineError(f"operator {one.name}: known_after {one.known_after} isn't an operator before it.")
    builder = _Builder(operators, sizes, port, budget_bytes, lookahead, pinned, volatile)
    return builder.played()


@dataclass
class _Builder:
    operators: Sequence[Operator]
    sizes: Mapping[str, float]
    port: Port
    budget: float
    lookahead: int
    pinned: frozenset[str]
    volatile: frozenset[str]

    def played(self) -> Paged:
        residents = Residents(self.budget, self.sizes, self.lookahead, self.pinned, self.volatile)
        uses: dict[str, list[int]] = defaultdict(list)
        for i, one in enumerate(self.operators):
            for name in one.uses:
                uses[name].append(i)

        def next_use(name: str, i: int) -> float:
            at = bisect_left(uses[name], i)
            return uses[name][at] if at < len(uses[name]) else float("inf")

        dirty: dict[str, float] = {}
        written = 0.0
        fetched = np.zeros(len(self.operators))
        columns = _Columns()
        compute: list[int] = []
        seen: set[str] = set()
        user: dict[str, int] = {}  # task that used a tensor last
        for i, one in enumerate(self.operators):
            admitted = residents.admit(i, one.uses, next_use, one.name)
            waits = [compute[admitted.after]] if admitted.after >= 0 else []
            if one.known_after is not None:
                waits.append(compute[one.known_after])
            for name in admitted.dropped:
                last = user.pop(name, None)
                if name in dirty:
                    assert last is not None
                    back = columns.add(OUT, self.port.write_seconds, dirty[name], [1], [last], i)
                    written += dirty.pop(name)
                    columns.free(back, self.sizes[name])
                    waits.append(back)
                elif last is not None:
                    columns.free(last, self.sizes[name])
            arrived = []
            made = [name for name in admitted.fetched if name in one.makes and name not in seen]
            seen.update(one.uses)
            for name in admitted.fetched:
                if name in made:
                    continue
                size = self.sizes[name]
                task = columns.add(IN, self.port.read_seconds, size, [0], sorted({*waits}), i)
                columns.take(task, size)
                fetched[i] += size
                arrived.append(task)
            task = columns.add(COMPUTE, one.seconds, 0.0, [], [*arrived, *(waits if made else [])], i)
            for name in made:
                columns.take(task, self.sizes[name])
            compute.append(task)
            for name in one.uses:
                user[name] = task
            for name, size in one.writes.items():
                if name not in self.pinned:  # which never goes
                    dirty[name] = dirty.get(name, 0.0) + size
        for name, size in dirty.items():  # what is left goes back at the end
            columns.add(OUT, self.port.write_seconds, size, [1], [user[name]], len(self.operators) - 1)
            written += size
        base = sum(self.sizes[name] for name in self.pinned)
        graph = columns.graph(self.port, self.budget, base)
        timeline = simulate(graph, "paged")
        end = timeline.end[compute]
        before = np.concatenate([[0.0], end[:-1]])
        return Paged(
            tuple(self.operators),
            timeline,
            end,
            timeline.start[compute] - before,
            fetched,
            written,
            timeline.memory[0].peak_bytes,
        )


class _Columns:
    """A TaskGraph under construction."""

    def __init__(self) -> None:
        self.stream: list[int] = []
        self.seconds: list[float] = []
        self.bytes: list[float] = []
        self.crosses: list[list[int]] = []
        self.needs: list[list[int]] = []
        self.operator: list[int] = []
        self.memory: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, stream: int, seconds: float, size: float, links: list[int], needs: list[int], operator: int) -> int:
        self.stream.append(stream)
        self.seconds.append(seconds)
        self.bytes.append(size)
        self.crosses.append(links if size else [])
        self.needs.append(needs)
        self.operator.append(operator)
        return len(self.stream) - 1

    def take(self, task: int, size: float) -> None:
        self.memory[task][0] += size

    def free(self, task: int, size: float) -> None:
        self.memory[task][1] -= size

    def graph(self, port: Port, budget: float, base: float) -> TaskGraph:
        rows = sorted(self.memory.items())
        kinds = {COMPUTE: Kind.F, IN: Kind.FETCH, OUT: Kind.OFFLOAD}
        return TaskGraph(
            streams=STREAMS,
            links=(Link("port in", port.read_bytes_per_second), Link("port out", port.write_bytes_per_second)),
            tiers=(Tier(rank_tier(0), None if budget == float("inf") else budget),),
            base_bytes=np.array([base]),
            stream=np.array(self.stream, np.int32),
            seconds=np.array(self.seconds),
            bytes=np.array(self.bytes),
            crosses=Ragged.of(self.crosses),
            needs=Ragged.of(self.needs),
            memory=Memory(
                np.array([task for task, _ in rows], np.int32),
                np.zeros(len(rows), np.int32),
                np.array([row[0] for _, row in rows]),
                np.array([row[1] for _, row in rows]),
            ),
            actions=tuple(Action(kinds[s], 0, i) for s, i in zip(self.stream, self.operator, strict=True)),
            rank=np.zeros(len(self.stream), np.int32),
        )


def recursion(
    compute: Sequence[float],
    fetch_bytes: Sequence[float],
    port: Port,
    *,
    budget_bytes: float = float("inf"),
    lookahead: int = 10**9,
) -> list[float]:
    """Ends of operators that use each tensor once, by the recursion above: what the simulation must say, too."""
    fetch_end, ends = 0.0, [0.0] * len(compute)
    for i, (seconds, size) in enumerate(zip(compute, fetch_bytes, strict=True)):
        if size > budget_bytes * (1 + 1e-12):
            raise GrainlineError(
                f"operator {i} needs {size:,.0f} bytes, and the local budget is {budget_bytes:,.0f}. Give it as much."
            )
        start, held = fetch_end, 0.0
        if i > lookahead:
            start = max(start, ends[i - lookahead - 1])
        for j in range(i, -1, -1):  # j + 1 … i fit together
            held += fetch_bytes[j]
            if held > budget_bytes * (1 + 1e-12):
                start = max(start, ends[j])
                break
        fetch_end = start + (port.read_seconds + size / port.read_bytes_per_second if size else 0.0)
        ends[i] = max(ends[i - 1] if i else 0.0, fetch_end) + seconds
    return ends


def unlimited(compute: Sequence[float], fetch: Sequence[float]) -> float:
    """Makespan without any limit: max over i of Σ fetch[≤ i] + Σ compute[≥ i]."""
    c, f = np.array(compute), np.array(fetch)
    return float(np.max(np.cumsum(f) + np.cumsum(c[::-1])[::-1]))


def largest_window(operators: Sequence[Operator], sizes: Mapping[str, float], lookahead: int) -> tuple[float, str]:
    """Bytes of all tensors that `lookahead` + 1 operators in a row use, at most, and the first of these operators.

    A budget below it makes fetches wait for operators that look-ahead wouldn't.
    """
    found = max(
        (sum(sizes[name] for name in {n for one in operators[i : i + lookahead + 1] for n in one.uses}), -i)
        for i in range(len(operators))
    )
    return found[0], operators[-found[1]].name


def worth_pinning(
    uses_per_pass: Mapping[str, float], sizes: Mapping[str, float], budget_bytes: float
) -> frozenset[str]:
    """Tensors to keep for good: those that save most fetched bytes for each byte that they take, while there is room.

    `uses_per_pass` is the share of a tensor's bytes that one pass would fetch otherwise.
    """
    left, chosen = budget_bytes, []
    for name in sorted(uses_per_pass, key=lambda name: (-uses_per_pass[name], -sizes[name], name)):
        if sizes[name] <= left and uses_per_pass[name] > 0:
            chosen.append(name)
            left -= sizes[name]
    return frozenset(chosen)
