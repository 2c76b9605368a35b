"""Engine: what a training program keeps in memory and how it computes. The same strategy costs differently in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Engine:
    """Bytes are of each parameter. Where they are from is said below, by engine, and in docs/planner.md."""

    name: str
    weight_bytes: float
    gradient_bytes: float
    optimizer_bytes: float  # with the copy of the weights that it steps, where there is one
    update_bytes: float  # through memory for a parameter's update: norm and clipping, the step, copies, zeroing
    adds_bytes: float = 0.0  # through memory to add a micro-batch's gradient to the sum; 0: products do it
    sent_bytes: float = 4  # of a gradient that replicas sum
    flash_attention: bool = True
    scatters: bool = True  # of tensor-parallel ranks each sends its part to the next stage (arXiv 2104.04473, 4.1)
    overlaps_tensor: bool = True  # backward, beside the gradients of a linear layer
    overlaps_pipeline: bool = True  # receives are posted before a stage needs them; else it waits for each
    overlaps_data: bool = True  # sums of gradients run beside the backward of the last micro-batch
    overlaps_experts: bool = False  # all-to-alls run beside the shared experts
    own_counts: bool = False  # activations as plan/memory.py counts grainline's own blocks
    parallel: frozenset[str] = frozenset()  # features of a plan that it can run
    schedules: tuple[str, ...] = ("1f1b",)
    cuts_unevenly: bool = True
    splits_experts: bool = True  # an expert's own matrices over tensor-parallel ranks
    context_bytes: float = 0.8 * GIB
    """Of driver and libraries, before anything is computed. Assumed: nvidia-smi shows 0.5 to 1 GiB on A100 and H100."""
    buffer_bytes: float = 1.0 * GIB
    """Of communication. Assumed: NCCL has 4 MiB (NCCL_BUFFSIZE) for each of up to 32 channels both ways, in each of
    the communicators of tensor, data, pipeline and expert groups."""
    fragmentation: float = 0.04
    """Of what is allocated, that nobody can use. Assumed: training without offloading loses a few percent in PyTorch's
    caching allocator (GMLake, arXiv 2401.08156, section 2, has up to 5 % there and far more with offloading)."""


COMMON = frozenset({"data parallelism", "pipeline parallelism", "FSDP", "activation recomputation"})
MEGATRON_FEATURES = COMMON | {
    "tensor parallelism",
    "context parallelism",
    "expert parallelism",
    "sharded optimizer",
    "selective recomputation",
}
STEP = 28
"""Bytes of AdamW itself: gradient, weight and two moments read, the latter three written, in float32."""
CLIP = 4 + 8
"""The norm reads gradients, clipping reads and writes them."""

ENGINES: Mapping[str, Engine] = {
    # bfloat16 weights (copied from float32 after the step: 6), float32 gradients (zeroed: 4).
    "megatron": Engine(
        "megatron", 2, 4, 12, STEP + CLIP + 6 + 4, parallel=MEGATRON_FEATURES, schedules=("1f1b", "interleaved")
    ),
    # As measured in arXiv 2205.05198: attention writes its scores; float16, so gradients are unscaled first (8); linear
    # layers add to the sums of gradients, and send beside their products (section 4.2.2). Sums over replicas wait.
    "megatron-2022": Engine(
        "megatron-2022",
        2,
        4,
        12,
        STEP + CLIP + 8 + 6 + 4,
        flash_attention=False,
        overlaps_pipeline=False,
        overlaps_data=False,
        parallel=MEGATRON_FEATURES,
        schedules=("1f1b", "interleaved"),
        cuts_unevenly=False,
    ),
    # As measured in arXiv 2104.04473: float16 gradients, added by a kernel of their own (two read, one written: 6) and
    # copied to float32 before the step (6); no message is hidden.
    "megatron-2021": Engine(
        "megatron-2021",
        2,
        2,
        16,
        STEP + CLIP + 8 + 6 + 6 + 2,
        adds_bytes=6,
        sent_bytes=2,
        flash_attention=False,
        overlaps_tensor=False,
        overlaps_pipeline=False,
        overlaps_data=False,
        parallel=MEGATRON_FEATURES,
        schedules=("1f1b", "interleaved"),
        cuts_unevenly=False,
    ),
    # FSDP2: float32 shards, gathered in bfloat16. It shards in pipelines, too, which isn't modelled; it has no ZeRO-1.
    "torchtitan": Engine(
        "torchtitan",
        4,
        4,
        8,
        STEP + CLIP + 4,
        scatters=False,
        overlaps_tensor=False,
        parallel=COMMON | {"tensor parallelism", "context parallelism", "expert parallelism"},
        schedules=("gpipe", "1f1b", "interleaved"),
        splits_experts=False,
    ),
    "grainline": Engine(
        "grainline",
        4,
        4,
        8,
        STEP + CLIP + 4,
        adds_bytes=12,
        scatters=False,
        overlaps_tensor=False,
        overlaps_data=False,
        own_counts=True,
        parallel=COMMON | {"vocabulary parallelism", "activation offloading"},
        schedules=("gpipe", "1f1b", "interleaved", "zb-h1"),
    ),
}
