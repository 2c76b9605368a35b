"""Megatron-LM's published cluster (arXiv 2104.04473, section 5): what a GPT layer and a message take there.

DGX A100 servers: 8 A100 of 80 GB on NVSwitch, and an HDR NIC for each. Rates are the catalogue's. Of memory and links
80 % are taken to be reached. Matrix products are made of tiles of 256 × 128 on 108 multiprocessors, and the last wave
of them may be part empty; what share of the peak a full wave reaches is calibrated on one row of table 1 (`REACHED`).
Other ops are bytes through memory: those of a layer with the paper's fused kernels, counted in `_moved`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from grainline.hardware.catalogue import catalogue
from grainline.plan.closed_forms import Gpt, data_elements
from grainline.schedule import Costs, Kind, Network, StageCost, Timeline, add_messages, lower, make_schedule, simulate
from grainline.schedule.simulator.graph import Link
from grainline.schedule.simulator.network import Route

SERVER = 8  # GPUs
MULTIPROCESSORS, TILE = 108, (256, 128)  # NVIDIA A100 whitepaper (2020); cuBLAS' largest tile there
WIDTH = 2  # bytes of float16
MOVED = 0.8  # share of the bandwidth of memory and links that is taken to be reached
STATE = 30  # bytes through memory for each parameter's update: float32 weight and two moments both ways, float16 both


@dataclass(frozen=True)
class Run:
    """A row of the paper: model, split, batch (B sequences, b in a micro-batch), stages per rank."""

    gpt: Gpt
    heads: int
    tensor: int
    pipeline: int
    data: int
    batch: int
    sequences: int = 1
    chunks: int = 1
    recompute: bool = True
    scatter_gather: bool = True

    @property
    def gpus(self) -> int:
        """t · p · d."""
        return self.tensor * self.pipeline * self.data

    @property
    def microbatches(self) -> int:
        """Of each pipeline."""
        return self.batch // (self.data * self.sequences)

    @property
    def hidden_bytes(self) -> float:
        """What goes from stage to stage: b·s·h."""
        return WIDTH * self.sequences * self.gpt.length * self.gpt.hidden


@cache
def peak() -> float:
    """FLOP/s of a GPU's float16 matrix products."""
    return catalogue().device("A100-80").device.flops_per_second["float16"]


@cache
def memory_rate() -> float:
    """Bytes per second of a GPU's memory, as reached."""
    rate = catalogue().device("A100-80").device.memory[0].bytes_per_second
    assert rate is not None
    return MOVED * rate


@cache
def link_rate(name: str) -> float:
    """Bytes per second of a GPU's NVLinks or NIC, each way, as reached."""
    return MOVED * catalogue().link(name).bytes_per_second


def product_seconds(rows: int, columns: int, inner: int, reached: float) -> float:
    """Of one matrix product: whole waves of tiles."""
    tiles = math.ceil(rows / TILE[0]) * math.ceil(columns / TILE[1])
    per_wave = 2 * TILE[0] * TILE[1] * inner * MULTIPROCESSORS
    return math.ceil(tiles / MULTIPROCESSORS) * per_wave / (reached * peak())


def sum_seconds(run: Run, count: float) -> float:
    """Of an all-reduce of so many bytes over the tensor ranks: a ring at the pace of its slowest link.

    Beyond a server the ring leaves it through all of its NICs at once.
    """
    if run.tensor == 1:
        return 0.0
    rate = link_rate("NVLink 3") if run.tensor <= SERVER else min(SERVER * link_rate("HDR"), link_rate("NVLink 3"))
    return 2 * (run.tensor - 1) / run.tensor * count / rate


def _moved(run: Run) -> float:
    """Bytes that a layer's forward moves beside its products, per GPU.

    Two norms read and write, two dropouts with bias and residual read two and write one with a mask: 11 of b·s·h. Split
    over t: bias and GeLU of 4·h both ways and a transpose, 10 of b·s·h; scores written, softmax and dropout both ways,
    and read: 6.5 of b·a·s².
    """
    tokens, gpt = run.sequences * run.gpt.length, run.gpt
    states, scores = tokens * gpt.hidden, run.heads * tokens * gpt.length
    return WIDTH * (11 * states + (10 * states + 6.5 * scores) / run.tensor)


def layer_seconds(run: Run, reached: float) -> tuple[float, float]:
    """(forward, backward) of a layer for a micro-batch, sums over the tensor ranks included, recomputation not."""
    h, rows, t = run.gpt.hidden, run.sequences * run.gpt.length, run.tensor
    products = [(3 * h // t, h), (h, h // t), (4 * h // t, h), (h, 4 * h // t)]  # columns, inner
    forward = sum(product_seconds(rows, columns, inner, reached) for columns, inner in products)
    inputs = sum(product_seconds(rows, inner, columns, reached) for columns, inner in products)
    weights = sum(product_seconds(columns, inner, rows, reached) for columns, inner in products)
    attention = 4 * run.sequences * run.gpt.length**2 * h / t / (reached * peak())
    moved, summed = _moved(run) / memory_rate(), 2 * sum_seconds(run, run.hidden_bytes)
    return forward + attention + moved + summed, inputs + weights + 2 * (attention + moved) + summed


def head_seconds(run: Run, reached: float) -> tuple[float, float]:
    """(forward, backward) of the output layer, split over the tensor ranks; it is not recomputed."""
    h, rows, columns = run.gpt.hidden, run.sequences * run.gpt.length, run.gpt.vocabulary // run.tensor
    forward = product_seconds(rows, columns, h, reached)
    backward = product_seconds(rows, h, columns, reached) + product_seconds(columns, h, rows, reached)
    softmax = 4 * rows * columns / memory_rate()  # bytes of float32 logits, once
    return forward + 3 * softmax, backward + 2 * softmax


def costs(run: Run, reached: float) -> Costs:
    """Of the stages: equal numbers of layers, the output layer with the last."""
    stages = run.pipeline * run.chunks
    layers = run.gpt.layers / stages
    forward, backward = layer_seconds(run, reached)
    again = forward if run.recompute else 0.0
    head = head_seconds(run, reached)
    parts = run.tensor if run.scatter_gather else 1
    plain = StageCost(
        {Kind.F: layers * forward, Kind.B: layers * (backward + again)}, output_bytes=run.hidden_bytes / parts
    )
    last = replace(plain, seconds={Kind.F: plain.seconds[Kind.F] + head[0], Kind.B: plain.seconds[Kind.B] + head[1]})
    return Costs(lambda stage, rank: last if stage == stages - 1 else plain)


def network(run: Run) -> Network:
    """A port of each rank on its NIC and on NVLink: stages of one server are joined by the latter.

    With scatter/gather the parts are put together at the receiver, over its NVLinks, before anything uses them.
    """
    ranks, per_server = run.pipeline, max(1, SERVER // run.tensor)
    rates = {"HDR": link_rate("HDR"), "NVLink 3": link_rate("NVLink 3")}
    links = [
        Link(f"rank {r} {name} {way}", rates[name]) for name in rates for way in ("out", "in") for r in range(ranks)
    ]
    gathered = sum_seconds(run, run.hidden_bytes) / 2 if run.scatter_gather else 0.0

    def between(source: int, target: int) -> Route:
        name = "NVLink 3" if source // per_server == target // per_server else "HDR"
        first = 2 * ranks * list(rates).index(name)
        latency = catalogue().link(name).latency_seconds
        return Route(latency + gathered, (first + source, first + ranks + target))

    return Network(tuple(links), between)


def after_seconds(run: Run) -> float:
    """What follows the passes: gradients summed over replicas, which nothing hides, and the optimiser's step."""
    own = run.gpt.parameters / (run.tensor * run.pipeline)
    rate = min(max(1, SERVER // run.tensor) * link_rate("HDR"), link_rate("NVLink 3"))
    summed = WIDTH * data_elements(run.gpt.parameters, run.pipeline, run.tensor, run.data) / rate
    return summed + STATE * own / memory_rate()


def passes(run: Run, reached: float) -> Timeline:
    """One pipeline's passes. A rank waits for its messages where it wants them: Megatron's of 2021 hide none."""
    name = "interleaved" if run.chunks > 1 else "1f1b"
    schedule = make_schedule(name, run.pipeline, run.microbatches, chunks=run.chunks)
    return simulate(lower(add_messages(schedule, lookahead=0), costs(run, reached), network(run)), name)


def throughput(run: Run, reached: float) -> float:
    """FLOP/s of each GPU as the paper counts them: equation 3 over the time of a batch."""
    seconds = passes(run, reached).makespan + after_seconds(run)
    return run.gpt.flops(run.batch, recompute=run.recompute) / (run.gpus * seconds)


@cache
def calibrated(run: Run, published: float) -> float:
    """The share of the peak that full waves must reach for a run to have its published throughput. By bisection."""
    low, high = 0.1, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if throughput(run, middle) < published else (low, middle)
    return (low + high) / 2
