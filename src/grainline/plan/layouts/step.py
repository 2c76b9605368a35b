"""What a step takes under a strategy: seconds in parts and bytes by category, in closed form.

The first rungs of the ladder of estimates: rooflines of kernels, α–β times of messages, and 1F1B's critical path with
the round trip of its messages once for each p micro-batches (arXiv 2405.18093, section 4). `refine` plays the best
ones event by event.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from grainline.plan.layouts import operators
from grainline.plan.layouts.fleet import Ring
from grainline.plan.layouts.operators import Message, Part, Setting, Work
from grainline.plan.layouts.pace import UNCERTAINTY, Pace
from grainline.plan.layouts.partition import partition
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.strategy import Strategy


class Memory(NamedTuple):
    """Bytes of one rank."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float  # gathered layers, communication, driver, fragments

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)


class Seconds(NamedTuple):
    """Of a step, on its critical path; they add up."""

    compute: float
    recompute: float
    tensor: float  # messages that nothing hides
    context: float
    expert: float
    bubble: float
    pipeline: float
    data: float
    update: float

    @property
    def total(self) -> float:
        """The step."""
        return sum(self)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one strategy."""

    strategy: Strategy
    cut: tuple[int, ...]  # cells of each stage, see `cells_in`
    seconds: Seconds
    memory: tuple[Memory, ...]  # of each pipeline rank
    capacity: tuple[float, ...]  # bytes of each pipeline rank's smallest device
    uncertainty: float  # of the seconds, relative, one standard deviation

    @property
    def step_seconds(self) -> float:
        """All parts."""
        return self.seconds.total

    @property
    def fits(self) -> bool:
        """Whether every rank has memory enough."""
        return all(m.total <= c for m, c in zip(self.memory, self.capacity, strict=True))

    @property
    def occupancy(self) -> float:
        """Of the fullest rank."""
        return max(m.total / c for m, c in zip(self.memory, self.capacity, strict=True))

    @property
    def interval(self) -> tuple[float, float]:
        """Seconds that hold the real step nine times in ten."""
        return self.step_seconds * math.exp(-1.645 * self.uncertainty), self.step_seconds * math.exp(
            1.645 * self.uncertainty
        )

    @property
    def binds(self) -> str:
        """The largest part besides compute, by name, where it is a tenth or more; else compute."""
        rest = {name: value for name, value in self.seconds._asdict().items() if name != "compute"}
        name = max(rest, key=lambda n: rest[n])
        return name if rest[name] >= 0.1 * self.step_seconds else "compute"


def evaluate(problem: Problem, strategy: Strategy) -> Estimate:
    """Seconds and bytes of a strategy on the first `strategy.ranks` devices of the fleet."""
    st, shape = strategy, problem.shape
    m, width = st.microbatches(problem.batch_sequences), st.width
    blocks = _blocks(problem, st)
    paces = [_slowest(problem, r * width, (r + 1) * width) for r in range(st.pipeline)]
    cells = ["embedding", *("moe" if shape.is_sparse(i) else "dense" for i in range(shape.layers)), "head"]
    cells[-1:-1] = ["moe" if shape.sparse_layers else "dense"] * shape.mtp
    costs = {(kind, pace): _cell(blocks[kind], pace, problem, st) for kind in set(cells) for pace in set(paces)}
    weigh = [[costs[kind, paces[r]].total for kind in cells] for r in range(st.pipeline)]
    stages = st.pipeline * st.chunks
    cut = _cut(problem, st, cells, weigh, stages)
    ends = list(accumulate(cut))
    held: list[list[str]] = [[] for _ in range(st.pipeline)]
    for stage, (size, end) in enumerate(zip(cut, ends, strict=True)):
        held[stage % st.pipeline] += cells[end - size : end]
    rank_cells = [_sum(costs[kind, pace] for kind in kinds) for kinds, pace in zip(held, paces, strict=True)]
    busy = [cell.total for cell in rank_cells]
    slow = busy.index(max(busy))
    worst = rank_cells[slow]
    fill = _fill(st, busy, rank_cells, m)
    p2p = _pipeline(problem, st, m)
    data = _data(problem, st, held, worst)
    seconds = Seconds(
        compute=m * worst.compute,
        recompute=m * worst.recompute,
        tensor=m * worst.tensor,
        context=m * worst.context,
        expert=m * worst.expert,
        bubble=fill,
        pipeline=p2p,
        data=data,
        update=max(_update(problem, st, kinds, pace) for kinds, pace in zip(held, paces, strict=True)),
    )
    memory = tuple(_memory(problem, st, kinds, blocks, rank, m) for rank, kinds in enumerate(held))
    capacity = tuple(_capacity(problem, rank * width, (rank + 1) * width) for rank in range(st.pipeline))
    return Estimate(st, cut, seconds, memory, capacity, _uncertainty(seconds, paces))


class Cell(NamedTuple):
    """Seconds of one micro-batch, forward and backward."""

    compute: float
    recompute: float
    tensor: float
    context: float
    expert: float
    forward: float  # of all of these, what the forward has
    weights: float  # and the weights' gradients

    @property
    def total(self) -> float:
        """Forward, backward and what is computed again."""
        return self.compute + self.recompute + self.tensor + self.context + self.expert


def _sum(cells: Iterable[Cell]) -> Cell:
    sums = [0.0] * 7
    for cell in cells:
        for i, value in enumerate(cell):
            sums[i] += value
    return Cell(*sums)


Block = tuple[Part, ...]


def _blocks(problem: Problem, st: Strategy) -> dict[str, Block]:
    """The parts of each kind of cell; what doesn't change between strategies is made once."""
    key = ("blocks", st.tensor, st.context, st.expert, st.expert_tensor, st.sequences, st.sequence_parallel)
    if key not in problem.memo:
        s = Setting(problem.shape, st, problem.engine, problem.length, problem.width, problem.load)
        attention = operators.attention(s)
        found: dict[str, Block] = {"embedding": (operators.embedding(s),), "head": (operators.head(s),)}
        found["dense"] = (attention, operators.dense(s))
        if problem.shape.experts is not None:
            found["moe"] = (attention, operators.sparse(s))
        problem.memo[key] = found
    found = problem.memo[key]
    assert isinstance(found, dict)
    return found


def _cell(block: Block, pace: Pace, problem: Problem, st: Strategy) -> Cell:
    key = ("cell", id(block), pace, st.recompute, st.width, st.pipeline)
    if key in problem.memo:
        known = problem.memo[key]
        assert isinstance(known, Cell)
        return known
    forward = [_work(part.forward, pace, problem, st) for part in block]
    backward = [_work(part.backward, pace, problem, st) for part in block]
    again = [(0.0, dict.fromkeys(GROUPS, 0.0))]
    if st.recompute == "full":
        again = forward if len(block) > 1 else again  # a head or an embedding by itself is never computed again
    elif st.recompute == "attention":
        again = [_work(part.again, pace, problem, st) for part in block]
    sums = {g: sum(w[1][g] for w in (*forward, *backward, *again)) for g in GROUPS}
    ahead = sum(w[0] + sum(w[1].values()) for w in forward)
    cell = Cell(
        compute=sum(w[0] for w in (*forward, *backward)),
        recompute=sum(w[0] for w in again),
        tensor=sums["tensor"],
        context=sums["context"],
        expert=sums["expert"] + sums["expert_tensor"],
        forward=ahead,
        weights=sum(w[0] for w in backward) / 2,
    )
    problem.memo[key] = cell
    return cell


GROUPS = ("tensor", "context", "expert", "expert_tensor")


def _work(work: Work, pace: Pace, problem: Problem, st: Strategy) -> tuple[float, dict[str, float]]:
    ops, messages = work
    compute = pace.seconds(ops)
    sent = dict.fromkeys(GROUPS, 0.0)
    for message in messages:
        sent[message.group] += _message(message, problem, st)
    if sent["context"]:  # its ring passes keys on while attention computes with those that are here
        sent["context"] = max(0.0, sent["context"] - compute / 2)
    return compute, sent


def _message(message: Message, problem: Problem, st: Strategy) -> float:
    fleet, used = problem.fleet, st.ranks
    match message.group:
        case "tensor":
            ring = fleet.ring(st.tensor, 1, 0, used)
        case "context":
            ring = fleet.ring(st.context, st.tensor, 0, used)
        case "expert_tensor":
            ring = fleet.ring(st.expert_tensor, 1, 0, used)
        case "expert":
            ring = fleet.ring(st.expert, st.expert_tensor, 0, used)
    match message.kind:
        case "gather":
            return ring.gather(message.bytes)
        case "reduce":
            return ring.reduce(message.bytes)
        case "exchange":
            return ring.exchange(message.bytes)
    return ring.gather(message.bytes * ring.size)


def _slowest(problem: Problem, start: int, stop: int) -> Pace:
    names = {device.name for device in problem.fleet.types[start:stop]}
    return min((problem.paces[name] for name in names), key=lambda pace: pace.flops_per_second * pace.reach.products)


def _capacity(problem: Problem, start: int, stop: int) -> float:
    devices = problem.fleet.types[start:stop]
    return float(min(device.memory[0].capacity_bytes if device.memory else math.inf for device in devices))


def _cut(problem: Problem, st: Strategy, cells: list[str], weigh: list[list[float]], stages: int) -> tuple[int, ...]:
    key = ("cut", st.pipeline, st.chunks, tuple(map(tuple, weigh)))
    if key not in problem.memo:
        placed = [weigh[stage % st.pipeline] for stage in range(stages)]
        problem.memo[key] = partition(placed, even=not problem.engine.cuts_unevenly)
    found = problem.memo[key]
    assert isinstance(found, tuple)
    return found


def _fill(st: Strategy, busy: list[float], cells: list[Cell], m: int) -> float:
    """Seconds in which the slowest rank waits: for the first micro-batch to come, and the last gradient."""
    others = sum(busy) - max(busy)
    if st.schedule == "interleaved":
        return others / st.chunks
    if st.schedule == "zb-h1":  # weights' gradients fill what they can of it
        slack = sum(cell.weights for cell in cells) - max(cell.weights for cell in cells)
        return max(0.0, others - slack)
    return others


def _pipeline(problem: Problem, st: Strategy, m: int) -> float:
    """The round trip of activations and gradients, once for each p micro-batches (Pipette's hidden critical path)."""
    p = st.pipeline
    if p == 1:
        return 0.0
    tokens = st.sequences * problem.length / st.splits_sequence
    count = problem.width * tokens * problem.shape.hidden
    width, fleet = st.width, problem.fleet
    if fleet.uniform:
        trip = (p - 1) * 2 * _hop(fleet.hop(width, 0, st.ranks - width), count)
    else:
        trip = sum(2 * _hop(fleet.hop(width, r * width, (r + 1) * width), count) for r in range(p - 1))
    if st.chunks > 1:
        trip *= st.chunks
    return max(1.0, m / p) * trip


def _hop(ring: Ring, count: float) -> float:
    return ring.across_latency + count / ring.across_bytes_per_second


def _parameters(problem: Problem, st: Strategy, kinds: list[str]) -> tuple[float, float]:
    """Of one rank: of what all data-parallel ranks hold alike, and of its experts."""
    shape = problem.shape
    dense = experts = 0.0
    for kind in kinds:
        match kind:
            case "embedding":
                dense += shape.table_parameters / st.tensor
            case "head":
                dense += 0 if shape.tied and st.pipeline == 1 else shape.table_parameters / st.tensor
            case "dense":
                dense += (shape.attention_matrices + shape.ffn_parameters) / st.tensor
            case "moe":
                dense += (shape.attention_matrices + shape.beside_experts) / st.tensor
                experts += shape.expert_parameters / (st.expert * st.expert_tensor)
    return dense, experts


def _memory(problem: Problem, st: Strategy, kinds: list[str], blocks: dict[str, Block], rank: int, m: int) -> Memory:
    engine = problem.engine
    dense, experts = _parameters(problem, st, kinds)
    among, among_experts = st.data * st.context, st.expert_data
    full, state = st.shard == "full", st.shard != "none"
    weights = engine.weight_bytes * (dense / (among if full else 1) + experts / (among_experts if full else 1))
    gradients = engine.gradient_bytes * (dense / (among if full else 1) + experts / (among_experts if full else 1))
    optimizer = engine.optimizer_bytes * (dense / (among if state else 1) + experts / (among_experts if state else 1))
    kept = logits = whole = 0.0
    border = problem.width * st.sequences * problem.length / st.splits_sequence * problem.shape.hidden
    for kind in kinds:
        if kind == "head":
            logits = blocks[kind][0].kept
        elif kind == "embedding":
            kept += blocks[kind][0].kept
        elif st.recompute == "full":
            kept += border
            whole = max(whole, sum(part.kept for part in blocks[kind]))
        else:
            kept += sum(part.kept_light if st.recompute == "attention" else part.kept for part in blocks[kind])
    activations = kept * in_flight(st, rank, m) + whole
    gathered = 0.0
    if full and kinds:
        blocks_held = max(1, sum(kind in ("dense", "moe") for kind in kinds))
        gathered = 2 * problem.width * (dense + experts) / blocks_held
    rest = engine.context_bytes + engine.buffer_bytes + gathered
    allocated = weights + gradients + optimizer + activations + logits + gathered
    return Memory(weights, gradients, optimizer, activations, logits, rest + engine.fragmentation * allocated)


def in_flight(st: Strategy, rank: int, m: int) -> float:
    """Micro-batches of a rank's cells that wait for their backward, at most (arXiv 2104.04473, section 2.2)."""
    p, v = st.pipeline, st.chunks
    if st.schedule == "gpipe":
        return float(m)
    if v == 1:
        return float(min(m, p - rank))
    return min(float(m), (2 * (p - rank - 1) + (v - 1) * p + 1) / v)


def _data(problem: Problem, st: Strategy, held: list[list[str]], worst: Cell) -> float:
    """Sums of gradients over replicas (and gathers of shards), less what the last backward hides of them."""
    longest = 0.0
    among = st.data * st.context
    for rank, kinds in enumerate(held):
        dense, experts = _parameters(problem, st, kinds)
        start, stop = rank * st.width, (rank + 1) * st.width
        ring = problem.fleet.ring(among, st.tensor, start, stop)
        expert_ring = problem.fleet.ring(st.expert_data, st.expert * st.expert_tensor, start, stop)
        grad, weight = problem.engine.gradient_bytes, problem.width
        if st.shard == "none":
            seconds = ring.reduce(grad * dense) + expert_ring.reduce(grad * experts)
        else:
            seconds = ring.gather(grad * dense) + expert_ring.gather(grad * experts)
            again = 1 if st.shard == "optimizer" else 2 * st.microbatches(problem.batch_sequences)
            seconds += again * (ring.gather(weight * dense) + expert_ring.gather(weight * experts))
        longest = max(longest, seconds)
    if not problem.engine.overlaps_data:
        return longest
    hidden = (
        (worst.total - worst.forward) if st.shard != "full" else worst.total * st.microbatches(problem.batch_sequences)
    )
    return max(0.1 * longest, longest - hidden)


def _update(problem: Problem, st: Strategy, kinds: list[str], pace: Pace) -> float:
    """The optimiser reads gradients and reads and writes its state."""
    dense, experts = _parameters(problem, st, kinds)
    if st.shard != "none":
        dense, experts = dense / (st.data * st.context), experts / st.expert_data
    engine = problem.engine
    moved = (engine.gradient_bytes + 2 * engine.optimizer_bytes + engine.weight_bytes) * (dense + experts)
    return moved / (pace.bytes_per_second * pace.reach.memory)


def _uncertainty(seconds: Seconds, paces: list[Pace]) -> float:
    """Parts are uncertain independently of each other."""
    compute = max(UNCERTAINTY[pace.source] for pace in paces)
    total = seconds.total
    own = seconds.compute + seconds.recompute + seconds.bubble + seconds.update
    sent = seconds.tensor + seconds.context + seconds.expert + seconds.pipeline + seconds.data
    return math.hypot(compute * own, 0.2 * sent) / total
