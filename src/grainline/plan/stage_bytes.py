"""What a stage of any cells takes on its rank: what a cut is held to, and what is told where memory is short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from grainline.documents import ModelConfig
from grainline.plan import memory
from grainline.plan.in_flight import InFlight
from grainline.plan.memory import MicroBatch
from grainline.plan.seats import Seat
from grainline.schedule.cells import Cell
from grainline.schedule.costs import StageCost


@dataclass(frozen=True)
class StageBytes:
    """A `cut.StageBytes`. Sizes are alike on all ranks; `in_flight` is by stage.

    Each form that a stage holds micro-batches in counts at its own peak, which needn't come at the same time for all:
    a bound from above. Where the vocabulary is split, stages have no `tables`, and a rank has `shared_bytes` besides.
    """

    config: ModelConfig
    batch: MicroBatch
    optimizer: memory.OptimizerKind
    cells: tuple[Cell, ...]
    costs: tuple[StageCost, ...]  # of the cells
    tables: bool
    placement: tuple[int, ...]
    in_flight: tuple[InFlight, ...]
    shared_bytes: float = 0.0
    lookahead: int = 1  # compute actions ahead that receives are posted
    _states: dict[tuple[int, int], memory.StateBytes] = field(default_factory=dict, repr=False)

    @cached_property
    def _sums(self) -> tuple[list[float], list[float]]:
        """Of what cells before one keep, and queue."""
        kept = list(accumulate((cost.kept_bytes for cost in self.costs), initial=0.0))
        return kept, list(accumulate((cost.queued_bytes for cost in self.costs), initial=0.0))

    def __call__(self, stage: int, first: int, end: int) -> float:
        return sum(self.parts(stage, first, end).values())

    def parts(self, stage: int, first: int, end: int) -> dict[str, float]:
        """By what it is."""
        is_first = self.placement.index(self.placement[stage]) == stage  # of its rank
        shared = {"vocabulary": self.shared_bytes} if is_first and self.shared_bytes else {}
        if first == end:
            return shared
        held, state = self.in_flight[stage], self._state(first, end)
        kept, queued = self._sums
        hidden = memory.output_bytes(self.config, Cell("dense", 0), self.batch)
        return {
            "parameters": state.parameters,
            "gradients": state.gradients,
            "optimizer": state.optimizer,
            **shared,
            "activations": held.whole * (kept[end] - kept[first])
            + held.inputs * self.costs[first].input_bytes
            + held.queued * (queued[end] - queued[first]),
            # What may have come for this action and those ahead, and as many that leave.
            "messages": 2 * (self.lookahead + 1) * hidden,
        }

    def _state(self, first: int, end: int) -> memory.StateBytes:
        if (first, end) not in self._states:
            own = memory.parameters_of_all(self.config, self.cells[first:end], tables=self.tables)
            self._states[first, end] = memory.state_bytes(own, self.optimizer)
        return self._states[first, end]

    def explain(self, sizes: Sequence[int], rank: int, seat: Seat) -> str:
        """Which bytes of which cells don't fit where, and what could be done."""
        parts: dict[str, float] = {}
        names: list[str] = []
        ends = list(accumulate(sizes))
        for stage, (size, end) in enumerate(zip(sizes, ends, strict=True)):
            if self.placement[stage] == rank:
                for name, count in self.parts(stage, end - size, end).items():
                    parts[name] = parts.get(name, 0.0) + count
                names += [cell.name for cell in self.cells[end - size : end]]
        listed = ", ".join(f"{name} {_gigabytes(count)}" for name, count in parts.items())
        again = "" if any(held.inputs for held in self.in_flight) else "pipeline.recompute = 'always', "
        held = names[0] if len(names) == 1 else f"{len(names)} cells ({names[0]} … {names[-1]})"
        return (
            f"Memory doesn't suffice: rank {rank} ({seat.about}) with {held} needs {_gigabytes(sum(parts.values()))}, "
            f"and has {_gigabytes(seat.capacity_bytes)}: {listed}. Take more ranks, fewer or smaller micro-batches, "
            f"{again}or a schedule that holds less."
        )


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.3g} GB"
