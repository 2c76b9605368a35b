"""A plan's [pipeline] with nothing left open: schedule, stages, costs and network, for simulator and runtime alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from grainline.documents import Cluster, GrainlineError, ModelConfig, Plan, Recipe
from grainline.documents.plan import Pipeline
from grainline.hardware.topology import Topology, topology
from grainline.plan import memory
from grainline.plan.cost import OfCell, cells_at, costs_for
from grainline.plan.in_flight import in_flight
from grainline.plan.memory import MicroBatch
from grainline.plan.paths import along, partial_pipeline
from grainline.plan.seats import Seat, compute_dtype, computing, seats
from grainline.plan.stage_bytes import StageBytes
from grainline.plan.sums import over_wires, replica_seconds, shared_gradients, shared_seconds
from grainline.plan.vocabulary import CELLS, VocabularyCosts, vocabulary_costs
from grainline.schedule import (
    Costs,
    Kind,
    Network,
    Schedule,
    ScheduleError,
    StageCost,
    add_messages,
    make_schedule,
)
from grainline.schedule.cells import Cell, cells_of, stages_of
from grainline.schedule.cut import Cut, DoesNotFit, cut, described, equal_cut
from grainline.schedule.members.partial import LOOKAHEAD
from grainline.schedule.passes.offload import with_offload
from grainline.schedule.passes.recompute import with_recompute
from grainline.schedule.passes.vocabulary import add_vocabulary_passes
from grainline.schedule.schedule import Hop
from grainline.schedule.simulator.network import Route
from grainline.schedule.table import SCHEDULES

MICROBATCHES_PER_RANK = 4


@dataclass(frozen=True)
class Resolved:
    """One pipeline of a plan, ready to be simulated or carried out."""

    pipeline: Pipeline  # with micro-batches, chunks and cut filled in
    schedule: Schedule  # with its messages
    bare: Schedule  # compute alone: no messages, recomputation, offloading or vocabulary passes
    stages: tuple[tuple[Cell, ...], ...]
    cut: Cut
    costs: Costs
    network: Network
    seats: tuple[Seat, ...]
    batch: MicroBatch
    replicas: int
    tokens: int  # of a step, in all replicas
    replica_seconds: float = 0.0  # of summing gradients over replicas, if nothing hides it
    shared_seconds: float = 0.0  # of summing those of parameters that several ranks hold

    @property
    def capacity_bytes(self) -> dict[int, float]:
        """Of each rank's memory, where it is known."""
        return {r: seat.capacity_bytes for r, seat in enumerate(self.seats) if seat.capacity_bytes < float("inf")}

    @property
    def update_seconds(self) -> float:
        """After the passes: gradients summed over all that hold them, then the optimiser's step on the slowest rank."""
        optimizer = max(self.costs.seconds_on.get((Kind.UPDATE, rank), 0.0) for rank in range(len(self.seats)))
        return self.shared_seconds + self.replica_seconds + optimizer


def pipeline_plan(
    plan: Plan, config: ModelConfig, recipe: Recipe, cluster: Cluster, *, of_cell: OfCell | None = None
) -> Resolved:
    """Fill in what the plan leaves open, and cost it: by roofline on the cluster's devices, or by `of_cell`.

    Micro-batches default to four for each rank; `cut = "auto"` balances time and memory. Raises GrainlineError for what
    can't be: more ranks than layers or devices, a schedule's refusal, a cut that doesn't add up, memory that is short.
    """
    pipeline = plan.pipeline
    if pipeline is None:
        raise GrainlineError("The plan has no [pipeline]. Give it one, with ranks = 2 or more.")
    if pipeline.paths is not None:
        pipeline = partial_pipeline(pipeline)
    elif pipeline.ranks > config.layers:
        raise GrainlineError(
            f"pipeline.ranks is {pipeline.ranks}, and the model has {config.layers} layers: some would have none. "
            f"Take {config.layers} or fewer."
        )
    replicas = plan.layout.data_parallel
    wires = topology(cluster)
    sequences, pipeline = _shared_out(pipeline, recipe, replicas)
    dtype = compute_dtype(recipe, computing(wires))
    sitting = seats(wires, pipeline.ranks, replicas, dtype)
    on_cpu = all(seat.device.type.kind == "cpu" for seat in sitting)
    batch = MicroBatch(
        sequences,
        recipe.data.sequence_length,
        dtype,
        mtp_every=recipe.loss.mtp_every,
        writes_scores=on_cpu and (dtype == "bfloat16" or config.attention.kind == "mla"),
        fuses_experts=on_cpu,
    )
    speeds = [seat.speed for seat in sitting]
    vocabulary = None
    of_cell = of_cell or cells_at(config, batch, speeds)
    if pipeline.vocabulary != "plain":
        vocabulary = vocabulary_costs(config, batch, speeds, pipeline.vocabulary)
        of_cell = _without_vocabulary(of_cell, config, batch)
    decided = _Open(pipeline, config, batch, recipe.optimizer.kind, sitting, cells_of(config), of_cell, vocabulary)
    found = decided.cut(bare := decided.bare(None))
    stages = stages_of(decided.cells, found.cells)
    costs = decided.costs(bare, stages)
    bare = decided.bare(costs)
    schedule = decided.whole(bare, costs)
    chunks = max(len(bare.stages_of(rank)) for rank in range(bare.ranks))
    network = Network.of(wires, [seat.device.index for seat in sitting])
    return Resolved(
        pipeline=pipeline.model_copy(update={"cut": found.cells, "chunks": chunks}),
        schedule=add_messages(schedule, decided.lookahead),
        bare=bare,
        stages=stages,
        cut=decided.checked(found, schedule),
        costs=costs,
        network=replace(network, host=_host(wires, sitting)) if pipeline.offload else network,
        seats=sitting,
        batch=batch,
        replicas=replicas,
        tokens=recipe.training.batch_tokens,
        replica_seconds=replica_seconds(config, bare, stages, wires, replicas, tables=vocabulary is None),
        shared_seconds=shared_seconds(
            shared_gradients(config, bare, stages, tables=vocabulary is None),
            over_wires(wires, [seat.device.index for seat in sitting]),
        ),
    )


def _shared_out(pipeline: Pipeline, recipe: Recipe, replicas: int) -> tuple[int, Pipeline]:
    """Sequences of a micro-batch (the largest, where they are not equal), and the pipeline with their number."""
    mine = recipe.batch_sequences // replicas
    count = pipeline.microbatches
    if count is None:  # a multiple of the ranks, as some schedules interleave groups of so many
        count = max(1, min(MICROBATCHES_PER_RANK, mine // pipeline.ranks)) * pipeline.ranks
    if count > mine:
        raise GrainlineError(
            f"A batch of {recipe.batch_sequences} sequences can't fill {count} micro-batches"
            f"{f' in each of {replicas} pipelines' if replicas > 1 else ''}. Raise training.batch_tokens to "
            f"{replicas * count * recipe.data.sequence_length} or more, or take fewer (pipeline.microbatches)."
        )
    return -(-mine // count), pipeline.model_copy(update={"microbatches": count})


@dataclass(frozen=True)
class _Open:
    """What is decided before the cut is."""

    pipeline: Pipeline
    config: ModelConfig
    batch: MicroBatch
    optimizer: memory.OptimizerKind
    seats: tuple[Seat, ...]
    cells: tuple[Cell, ...]
    of_cell: OfCell
    vocabulary: VocabularyCosts | None

    @property
    def shared_bytes(self) -> float:
        """Of each rank: its rows of the vocabulary, with gradients and optimiser."""
        parameters = 0 if self.vocabulary is None else self.vocabulary.parameters
        return memory.state_bytes({"head": parameters}, self.optimizer).total

    @property
    def lookahead(self) -> int:
        """How many compute actions ahead a receive is posted."""
        return LOOKAHEAD if self.pipeline.paths is not None else SCHEDULES[self.pipeline.schedule].lookahead

    def bare(self, costs: Costs | None) -> Schedule:
        """Compute alone, fitted to costs where the schedule does that."""
        p = self.pipeline
        assert p.microbatches is not None
        if p.paths is not None:
            return along(p.paths, p.starts, p.ranks)
        chunks = p.chunks
        if chunks is None and not isinstance(p.cut, str) and len(p.cut) % p.ranks == 0:
            chunks = len(p.cut) // p.ranks
        schedule = make_schedule(p.schedule, p.ranks, p.microbatches, chunks=chunks, costs=costs)
        return schedule if p.placement is None else _relabelled(schedule, p.placement)

    def whole(self, bare: Schedule, costs: Costs | None) -> Schedule:
        """With vocabulary passes, recomputation and offloading as the plan has them."""
        found = bare
        if self.pipeline.vocabulary != "plain":
            found = add_vocabulary_passes(found, self.pipeline.vocabulary, costs)
        found = with_recompute(found, self.pipeline.recompute)
        return with_offload(found) if self.pipeline.offload else found

    def cut(self, bare: Schedule) -> Cut:
        """By time and memory, or as the plan says."""
        schedule = self.whole(bare, None)
        placement, held = _placement(bare), self.bytes_of(schedule)
        seconds = [self._seconds(rank, schedule) for rank in range(bare.ranks)]
        wanted = self.pipeline.cut
        try:
            if wanted == "auto":
                room = [seat.capacity_bytes for seat in self.seats]
                return cut(seconds, placement, stage_bytes=held, capacity_bytes=room)
            sizes = equal_cut(self.cells, bare.stages) if wanted == "equal" else wanted
            return described(sizes, seconds, placement, held)
        except DoesNotFit as error:
            raise GrainlineError(held.explain(error.cells, error.rank, self.seats[error.rank])) from None
        except ScheduleError as error:
            raise GrainlineError(f"The plan's pipeline.cut can't be: {error}.") from None

    def checked(self, found: Cut, schedule: Schedule) -> Cut:
        """The cut with the bytes of the schedule that was made for it; GrainlineError where they don't fit."""
        held = self.bytes_of(schedule)
        ends = list(accumulate(found.cells))
        need = [0.0] * schedule.ranks
        for stage, (size, end) in enumerate(zip(found.cells, ends, strict=True)):
            need[held.placement[stage]] += held(stage, end - size, end)
        short = [count - seat.capacity_bytes for count, seat in zip(need, self.seats, strict=True)]
        if max(short) > 0:
            rank = short.index(max(short))
            raise GrainlineError(held.explain(found.cells, rank, self.seats[rank]))
        return replace(found, rank_bytes=tuple(need))

    def bytes_of(self, schedule: Schedule) -> StageBytes:
        """What stages of any cells take in a schedule."""
        placement = _placement(schedule)
        return StageBytes(
            self.config,
            self.batch,
            self.optimizer,
            self.cells,
            tuple(self.of_cell(cell, 0) for cell in self.cells),
            self.vocabulary is None,
            placement,
            tuple(in_flight(schedule, rank, stage) for stage, rank in enumerate(placement)),
            self.shared_bytes,
            self.lookahead,
        )

    def _seconds(self, rank: int, schedule: Schedule) -> list[float]:
        """Of each cell on a rank, for a micro-batch."""
        kinds = [Kind.F, Kind.B]
        if any(action.kind is Kind.R for action in schedule.actions[rank]):
            kinds.append(Kind.R)
        costs = (self.of_cell(cell, rank) for cell in self.cells)
        return [sum(cost.seconds[kind] for kind in kinds) for cost in costs]

    def costs(self, bare: Schedule, stages: Sequence[Sequence[Cell]]) -> Costs:
        """Of a cut, with the vocabulary's passes."""
        held = [bare.stages_of(rank) for rank in range(bare.ranks)]
        speeds, extra = [seat.speed for seat in self.seats], self.vocabulary
        found = costs_for(
            self.config, stages, held, self.batch, self.of_cell, speeds, self.optimizer, tables=extra is None
        )
        if extra is None:
            return found
        return replace(
            found,
            static_bytes={rank: count + self.shared_bytes for rank, count in found.static_bytes.items()},
            collective_bytes=extra.collective_bytes,
            rank_seconds=extra.rank_seconds,
            seconds_on={**found.seconds_on, **extra.seconds_on},
        )


def _placement(schedule: Schedule) -> tuple[int, ...]:
    """The rank of each stage; of a stage that several hold, the first."""
    return tuple(schedule.holders(stage)[0] for stage in range(schedule.stages))


def _relabelled(schedule: Schedule, placement: Sequence[int]) -> Schedule:
    """The same schedule with its ranks in another order, as the ranks of its stages say."""
    own = _placement(schedule)
    if len(placement) != len(own):
        raise GrainlineError(f"pipeline.placement names {len(placement)} ranks, for {len(own)} stages.")
    new = dict(zip(own, placement, strict=True))
    if sorted(new.values()) != sorted(new) or [new[mine] for mine in own] != list(placement):
        raise GrainlineError(
            f"pipeline.placement {list(placement)} isn't the schedule's own, {list(own)}, with its ranks renamed."
        )
    paths = tuple(tuple(Hop(hop.stage, new[hop.rank]) for hop in path) for path in schedule.paths)
    actions = [schedule.actions[mine] for mine in sorted(new, key=lambda mine: new[mine])]
    return replace(schedule, paths=paths, actions=tuple(actions))


def _without_vocabulary(of_cell: OfCell, config: ModelConfig, batch: MicroBatch) -> OfCell:
    """Without the work that vocabulary passes do instead."""
    hidden = memory.output_bytes(config, Cell("dense", 0), batch)

    def remaining(cell: Cell, rank: int) -> StageCost:
        cost = of_cell(cell, rank)
        if cell.kind not in CELLS:
            return cost
        return StageCost(dict.fromkeys(cost.seconds, 0.0), output_bytes=hidden, input_bytes=hidden)

    return remaining


def _host(wires: Topology, sitting: Sequence[Seat]) -> tuple[tuple[Route, Route], ...]:
    """The ways to the host's memory and back, of each rank."""

    def route(crossed: Sequence[int]) -> Route:
        return Route(sum(wires.wires[i].latency_seconds for i in crossed), tuple(crossed))

    both = (wires.host_routes(seat.device.index) for seat in sitting)
    return tuple((route(there), route(back)) for there, back in both)
