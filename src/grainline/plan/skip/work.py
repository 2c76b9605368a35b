"""What a stage takes and moves for one micro-batch: said by hand, or by roofline for a model on a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from grainline.documents import GrainlineError, ModelConfig
from grainline.hardware.topology import Topology
from grainline.plan import memory
from grainline.plan.cost import Speed, cell_cost
from grainline.plan.memory import MicroBatch
from grainline.plan.skip.problem import Seconds
from grainline.schedule import Kind
from grainline.schedule.cells import Cell, cells_of


@dataclass(frozen=True)
class Work:
    """Of every stage alike."""

    forward_seconds: Seconds  # by device of the cluster, in the order of its topology
    activation_bytes: float  # that go from stage to stage
    gradient_bytes: float = 0.0  # of a stage's parameters
    hop_seconds: float = 0.0  # of every message besides the link's latency, such as copies to and from host memory
    backward_ratio: float = 1.5  # a backward over a forward
    loss_share: float = 0.25  # head and loss, both ways, over a forward


def blocks_alike(config: ModelConfig, stages: int) -> tuple[int, ...]:
    """Cells of each stage and of the head's, with as many blocks in each stage as in any other, or one more.

    The embedding goes with the first stage, MTP with the head. Raises GrainlineError for fewer blocks than stages.
    """
    if config.layers < stages:
        raise GrainlineError(f"the model has {config.layers} blocks, too few for {stages} stages: take fewer stages")
    ends = [-(-config.layers * (stage + 1) // stages) for stage in range(stages)]
    blocks = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    return (1 + blocks[0], *blocks[1:], len(cells_of(config)) - 1 - config.layers)


def work_of(
    config: ModelConfig, wires: Topology, batch: MicroBatch, stages: int, *, hop_seconds: float = 0.0
) -> tuple[Work, tuple[int, ...]]:
    """By roofline on each device, for a stage of the mean number of blocks; and the cut it is meant for."""
    cut = blocks_alike(config, stages)
    cells = cells_of(config)
    blocks, last = cells[1 : 1 + config.layers], cells[1 + config.layers :]

    def seconds(of: tuple[Cell, ...], kind: Kind, device: int) -> float:
        speed = Speed.of(wires.devices[device].type, batch.compute)
        return sum(cell_cost(config, cell, batch, speed).seconds[kind] for cell in of)

    devices = range(len(wires.devices))
    forward = [seconds(blocks, Kind.F, device) / stages for device in devices]
    head = seconds(last, Kind.F, 0) + seconds(last, Kind.B, 0)
    parameters = memory.parameters_of_all(config, blocks, tables=False)
    work = Work(
        tuple(forward),
        activation_bytes=memory.output_bytes(config, blocks[-1], batch),
        gradient_bytes=memory.PARAMETER * sum(parameters.values()) / stages,
        hop_seconds=hop_seconds,
        backward_ratio=seconds(blocks, Kind.B, 0) / seconds(blocks, Kind.F, 0),
        loss_share=head / forward[0],
    )
    return work, cut
