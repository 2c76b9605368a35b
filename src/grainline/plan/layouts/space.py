"""The space of strategies: what sizes go with a model, a fleet and an engine, and what a person has pinned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from grainline.documents import GrainlineError, nearest
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.strategy import Recompute, Shard, Strategy

Option = TypeVar("Option")
CHUNKS = (2, 3, 4, 6, 8)
MOST_SEQUENCES = 64  # of a micro-batch


@dataclass(frozen=True)
class Pins:
    """Choices that a person has made, by the names of Strategy's fields; what isn't named is open."""

    chosen: Mapping[str, object]

    @classmethod
    def of(cls, chosen: Mapping[str, object]) -> Pins:
        """Raises GrainlineError for a name that no strategy has."""
        names = [f.name for f in fields(Strategy)]
        for name in chosen:
            if name not in names:
                raise GrainlineError(f"--pin {name}: a layout has no '{name}'.{nearest(name, names)}")
        return cls(dict(chosen))

    def keep(self, name: str, options: Sequence[Option]) -> list[Option]:
        """Of the options, the chosen one; all of them where none was."""
        return [o for o in options if o == self.chosen[name]] if name in self.chosen else list(options)


OPEN = Pins({})
"""Nothing is pinned."""


def strategies(problem: Problem, pins: Pins = OPEN) -> Iterator[Strategy]:
    """All that divide what they must divide, over the whole fleet or the most devices that they can use."""
    shape, n, can = problem.shape, len(problem.fleet), problem.engine.parallel
    tensors = [t for t in _powers(n) if shape.heads % t == 0 and (t == 1 or "tensor parallelism" in can)]
    contexts = [c for c in _powers(n) if problem.length % (2 * c) == 0 and (c == 1 or "context parallelism" in can)]
    for t in pins.keep("tensor", tensors):
        for c in pins.keep("context", contexts):
            for p in pins.keep("pipeline", range(1, min(n, shape.layers) + 1)):
                most = n // (t * c * p)
                data = [d for d in range(1, most + 1) if problem.batch_sequences % d == 0]
                whole = [d for d in data if t * c * p * d == n] or data[-1:]
                for d in pins.keep("data", data if "data" in pins.chosen else whole):
                    yield from _inner(problem, pins, t, c, p, d)


def _inner(problem: Problem, pins: Pins, t: int, c: int, p: int, d: int) -> Iterator[Strategy]:
    shape, engine = problem.shape, problem.engine
    share, row = problem.batch_sequences // d, t * c * d
    experts, splits = [1], [1]
    if shape.experts is not None and "expert parallelism" in engine.parallel:
        experts = [e for e in _powers(row) if shape.experts.experts % e == 0]
        splits = [1] if t == 1 or not engine.splits_experts else [1, t]
    shards: list[Shard] = ["none"]
    if row > 1 and "sharded optimizer" in engine.parallel:
        shards.append("optimizer")
    if row > 1 and p == 1 and "FSDP" in engine.parallel:
        shards.append("full")
    # Where attention keeps no scores there is nothing of it to compute again.
    recomputed: list[Recompute] = ["none", "full"] if engine.flash_attention else ["none", "attention", "full"]
    for b in pins.keep("sequences", [b for b in _powers(min(share, MOST_SEQUENCES)) if share % b == 0]):
        for e in pins.keep("expert", experts):
            for et in pins.keep("expert_tensor", splits):
                if row % (e * et):
                    continue
                for schedule, v in _orders(problem, p, share // b, pins):
                    for shard in pins.keep("shard", shards):
                        for recompute in pins.keep("recompute", recomputed):
                            yield Strategy(t, c, d, p, e, et, b, v, schedule, recompute, shard)


def _orders(problem: Problem, p: int, m: int, pins: Pins) -> Iterator[tuple[str, int]]:
    """Schedules with their stages per rank."""
    if p == 1:
        yield "1f1b", 1
        return
    for name in pins.keep("schedule", problem.engine.schedules):
        if name != "interleaved":
            yield from ((name, v) for v in pins.keep("chunks", [1]))
        elif m % p == 0:
            yield from ((name, v) for v in pins.keep("chunks", CHUNKS) if p * v <= problem.shape.layers)


def _powers(limit: int) -> list[int]:
    return [1 << i for i in range(max(1, limit).bit_length()) if 1 << i <= limit]
