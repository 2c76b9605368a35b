"""Engine: what a training program keeps in memory and how it computes. The same strategy costs differently in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Engine:
    """Bytes are of each parameter. What is not measured is assumed, and says so in the docs."""

    name: str
    weight_bytes: float
    gradient_bytes: float
    optimizer_bytes: float  # with the copy of the weights that it steps, where there is one
    flash_attention: bool = True
    overlaps_data: bool = True  # sums of gradients run beside the backward of the last micro-batch
    overlaps_experts: bool = False  # all-to-alls run beside products
    parallel: frozenset[str] = frozenset()  # features of a plan that it can run
    schedules: tuple[str, ...] = ("1f1b",)
    cuts_unevenly: bool = True
    context_bytes: float = 1.0 * GIB  # of the driver and the libraries, before anything is computed
    buffer_bytes: float = 1.0 * GIB  # of communication
    fragmentation: float = 0.04  # of what is allocated, that nobody can use


COMMON = frozenset({"data parallelism", "pipeline parallelism", "FSDP", "activation recomputation"})
MEGATRON_FEATURES = COMMON | {
    "tensor parallelism",
    "context parallelism",
    "expert parallelism",
    "sharded optimizer",
    "selective recomputation",
}

ENGINES: Mapping[str, Engine] = {
    # bfloat16 weights, float32 gradients, AdamW over a float32 copy.
    "megatron": Engine(
        "megatron", 2, 4, 12, parallel=MEGATRON_FEATURES, schedules=("1f1b", "interleaved"), overlaps_experts=False
    ),
    # As measured in arXiv 2205.05198: attention writes its scores, gradients are summed after the backward.
    "megatron-2022": Engine(
        "megatron-2022",
        2,
        4,
        12,
        flash_attention=False,
        overlaps_data=False,
        parallel=MEGATRON_FEATURES,
        schedules=("1f1b", "interleaved"),
        cuts_unevenly=False,
    ),
    # FSDP2: float32 shards, gathered in bfloat16.
    "torchtitan": Engine(
        "torchtitan",
        4,
        4,
        8,
        parallel=MEGATRON_FEATURES,
        schedules=("1f1b", "interleaved", "zb-h1"),
    ),
    "grainline": Engine(
        "grainline",
        4,
        4,
        8,
        parallel=COMMON | {"vocabulary parallelism", "activation offloading"},
        schedules=("gpipe", "1f1b", "interleaved", "zb-h1"),
        overlaps_data=False,
    ),
}
