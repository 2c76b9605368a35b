"""What a cell costs on a device: seconds by roofline, bytes by tally; and a whole cut's costs for the simulator.

An op takes as long as its FLOPs or its bytes do, whichever is longer (Williams et al. 2009). Rates come from the
cluster's device types with a share of them that is reached in practice; both say where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from grainline.documents import GrainlineError, ModelConfig
from grainline.documents.cluster import DeviceType, Source
from grainline.plan import memory
from grainline.plan.memory import MicroBatch
from grainline.plan.work import Op, work_of
from grainline.schedule.actions import Kind
from grainline.schedule.cells import Cell
from grainline.schedule.costs import Costs, StageCost

REACHED: Mapping[Source, float] = {
    "measured": 0.8,
    "calibrated": 1.0,
    "data sheet": 0.5,
    "extrapolated": 0.5,
    "assumed": 0.5,
}
"""Share of a rate that a block's ops reach, by where the rate comes from: assumed, until runs have calibrated it.

A measured rate is that of large square matmuls, a data sheet's that of no program at all; what was calibrated on runs
needs no share. Megatron-LM reaches 44 % to 52 % of an A100's data sheet over whole steps (arXiv 2104.04473, table 1).
"""
BANDWIDTH_REACHED: Mapping[Source, float] = {**REACHED, "measured": 1.0, "data sheet": 0.8}
"""The same of memory: copies are what is measured, and streaming kernels come near the data sheet."""


@dataclass(frozen=True)
class Speed:
    """What a device does for one rank, and where the figures come from."""

    flops_per_second: float  # of matrix products, as reached
    bytes_per_second: float  # of memory, as reached; infinite where nothing is known
    origin: str

    @classmethod
    def of(cls, device: DeviceType, dtype: str, share: float = 1.0) -> Speed:
        """A device type's speed in `dtype` for a rank that has a `share` of the device.

        Raises GrainlineError where no rate is told for the dtype.
        """
        if dtype not in device.flops_per_second:
            known = ", ".join(device.flops_per_second) or "none"
            raise GrainlineError(
                f"device type '{device.name}': no rate for {dtype} is told (known: {known}). Add it to its "
                "flops_per_second, or set precision.compute to what is known."
            )
        rate, source = device.flops_per_second[dtype], device.origin(f"flops_per_second.{dtype}").source
        words = f"{rate / 1e12:.3g} TFLOP/s {dtype} ({source}), {REACHED[source]:.0%} of it reached (assumed)"
        tier = device.memory[0] if device.memory else None
        moved = float("inf")
        if tier is not None and tier.bytes_per_second is not None:
            moved = tier.bytes_per_second * BANDWIDTH_REACHED[device.origin("memory").source]
            words += f"; {tier.bytes_per_second / 1e9:,.0f} GB/s of memory ({device.origin('memory').source})"
        return cls(rate * REACHED[source] * share, moved * share, words)

    def seconds(self, ops: Iterable[Op]) -> float:
        """Of ops one after another, each bound by what it needs more of."""
        return sum(max(op.flops / self.flops_per_second, op.bytes / self.bytes_per_second) for op in ops)


def cell_cost(config: ModelConfig, cell: Cell, batch: MicroBatch, speed: Speed) -> StageCost:
    """A cell as a stage of its own."""
    work = work_of(config, cell, batch)
    inputs, weights = speed.seconds(work.input_gradient), speed.seconds(work.weight_gradient)
    return StageCost(
        {
            Kind.F: speed.seconds(work.forward),
            Kind.B: inputs + weights,
            Kind.I: inputs,
            Kind.W: weights,
            Kind.R: speed.seconds(work.again),
        },
        output_bytes=memory.output_bytes(config, cell, batch),
        kept_bytes=memory.kept_bytes(config, cell, batch),
        input_bytes=memory.input_bytes(config, cell, batch),
        queued_bytes=memory.queued_bytes(config, cell, batch),
    )


def stage_cost(cells: Sequence[StageCost], passing_bytes: float) -> StageCost:
    """Cells one after another as one stage; one without cells passes on the `passing_bytes` it is given."""
    if not cells:
        return StageCost(dict.fromkeys((Kind.F, Kind.B, Kind.I, Kind.W, Kind.R), 0.0), output_bytes=passing_bytes)
    return StageCost(
        {kind: sum(cell.seconds[kind] for cell in cells) for kind in cells[0].seconds},
        output_bytes=cells[-1].output_bytes,
        kept_bytes=sum(cell.kept_bytes for cell in cells),
        input_bytes=cells[0].input_bytes,
        queued_bytes=sum(cell.queued_bytes for cell in cells),
    )


OfCell = Callable[[Cell, int], StageCost]
"""A cell on a rank → its cost, as a stage of its own."""


def costs_for(
    config: ModelConfig,
    stages: Sequence[Sequence[Cell]],
    held: Sequence[Sequence[int]],
    batch: MicroBatch,
    of_cell: OfCell,
    speeds: Sequence[Speed],
    optimizer: memory.OptimizerKind = "adamw",
    *,
    tables: bool = True,
) -> Costs:
    """Costs of a cut. `stages[s]` are its cells, `held[r]` the stages of rank r, `speeds[r]` how fast rank r is.

    `of_cell` is `cells_at(config, batch, speeds)`, or what somebody has measured. Without `tables` the
    vocabulary's parameters are left out.
    """
    passing = [0.0]
    for cells in stages:
        passing.append(memory.output_bytes(config, cells[-1], batch) if cells else passing[-1])

    @cache
    def stage(s: int, rank: int) -> StageCost:
        return stage_cost([of_cell(cell, rank) for cell in stages[s]], passing[s])

    static, update = {}, {}
    for rank, of_rank in enumerate(held):
        own = (cell for s in of_rank for cell in stages[s])
        parameters = memory.parameters_of_all(config, own, tables=tables)
        state = memory.state_bytes(parameters, optimizer)
        static[rank] = state.total
        # Parameters and state are read and written, gradients read.
        moved = 2 * (state.parameters + state.optimizer) + state.gradients
        update[Kind.UPDATE, rank] = moved / speeds[rank].bytes_per_second
    return Costs(stage, static_bytes=static, seconds_on=update)


def cells_at(config: ModelConfig, batch: MicroBatch, speeds: Sequence[Speed]) -> OfCell:
    """By roofline, of each cell on each rank once."""

    @cache
    def of_cell(cell: Cell, rank: int) -> StageCost:
        return cell_cost(config, cell, batch, speeds[rank])

    return of_cell
