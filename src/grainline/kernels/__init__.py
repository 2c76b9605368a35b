"""The hot loops: one op, several backends, one table that says which one runs where. `reference` is the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.documents.moe import Rounding
from grainline.kernels import (
    choice,
    cross_entropy,
    deferred,
    elementwise,
    grouped,
    library,
    native_decode,
    native_experts,
    native_ops,
    reference,
    rounding,
    short_attention,
    sonic,
)
from grainline.kernels.coded import CodedWeights
from grainline.kernels.deferred import WeightQueue
from grainline.kernels.triton import mixture as triton
from grainline.kernels.triton import persistent
from grainline.kernels.triton import router as triton_router
from grainline.kernels.triton import token_rounding as triton_rounding

Op = Callable[..., Any]

BACKENDS: dict[str, dict[str, Op]] = {
    "swiglu_experts": {
        "reference": reference.swiglu_experts,
        "sonic": sonic.HALVES.rows,
        "native": native_experts.HALVES.rows,
        "grouped": grouped.HALVES.rows,
        "triton": triton.HALVES.rows,
    },
    "combine_rows": {"reference": reference.combine_rows, "by_hand": elementwise.combine_rows},
    "sort_by_expert": {"reference": reference.sort_by_expert, "native": native_ops.sort_by_expert},
    "route_topk": {
        "reference": reference.route_topk,
        "topk": elementwise.route_topk,
        "native": native_ops.route_topk,
        "triton": triton_router.route_topk,
    },
    "round_counts": {
        "reference": rounding.on_host,
        "on_device": rounding.on_device,
        "triton": triton_rounding.round_counts,
    },
    "expert_mixture": {
        "reference": reference.expert_mixture,
        "sonic": sonic.HALVES.mixture,
        "native": native_experts.HALVES.mixture,
        "grouped": grouped.HALVES.mixture,
        "triton": triton.HALVES.mixture,
        "persistent": persistent.expert_mixture,
    },
    "expert_mixture_quantized": {
        "reference": reference.expert_mixture_quantized,
        "native": native_experts.expert_mixture_quantized,
    },
    "linear_cross_entropy": {
        "reference": reference.linear_cross_entropy,
        "chunked": cross_entropy.linear_cross_entropy,
        "native": native_ops.linear_cross_entropy,
    },
    "rms_norm": {"reference": reference.rms_norm, "by_hand": elementwise.rms_norm, "native": native_ops.rms_norm},
    "rotate": {"reference": reference.rotate, "by_hand": elementwise.rotate, "native": native_ops.rotate},
    "attention": {
        "reference": reference.attention,
        "short": short_attention.attention,
        "native": native_decode.attention,
    },
    "attention_decode": {"reference": reference.attention_decode, "native": native_decode.attention_decode},
}
"""op → backend → function. All backends of an op have one signature and pass the same tests."""

EVERYWHERE = {
    "swiglu_experts": "sonic",
    "combine_rows": "by_hand",
    "expert_mixture": "sonic",
    "linear_cross_entropy": "chunked",
    "rms_norm": "by_hand",
    "rotate": "by_hand",
    "route_topk": "topk",
    "round_counts": "on_device",
}
NATIVE = (
    "swiglu_experts",
    "expert_mixture",
    "expert_mixture_quantized",
    "sort_by_expert",
    "route_topk",
    "linear_cross_entropy",
    "rms_norm",
    "rotate",
    "attention",
    "attention_decode",
)
CHOICE: dict[str, dict[str, str]] = {
    "cpu": {**EVERYWHERE, **dict.fromkeys(NATIVE, "native")},
    "cuda": {**EVERYWHERE, "swiglu_experts": "grouped", "expert_mixture": "grouped"},
    "mps": EVERYWHERE,
}
"""device type → op → backend; a device type that isn't here runs the reference."""


FUSED = frozenset({"rms_norm", "rotate"})
"""Ops that torch.compile makes one pass of by itself; it can't see through buffers that are written in parts."""

TRACED = {"linear_cross_entropy": "chunked", "attention": "short", "route_topk": "topk"}
"""What torch.compile traces of an op whose backend is "native" and that isn't a custom op; else the reference."""

DEFERRING = frozenset({"sonic", "native", "grouped", "triton"})
"""Expert ops that can leave weights' gradients for later; with a queue, `sonic` stands in for others."""


def op(name: str, device_type: str) -> Op:
    """The function that runs op `name` on this type of device."""
    backend = backend_of(name, device_type)
    if torch.compiler.is_compiling() and (name in FUSED or backend == "native"):
        backend = "reference" if name in FUSED else TRACED.get(name, "reference")
    return BACKENDS[name][backend]


def backend_of(name: str, device_type: str) -> str:
    """The name of what runs op `name`: as `use` says, else the variable GRAINLINE_BACKENDS, else the table."""
    return choice.named(name, BACKENDS) or CHOICE.get(device_type, {}).get(name, "reference")


# Compiled code keeps what was named when it was compiled. All that torch.compiler.assume_constant_result does, but for
# importing the compiler, which takes a second and more.
backend_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def use(backends: Mapping[str, str]) -> AbstractContextManager[None]:
    """`with use({"expert_mixture": "triton"}):` has these ops run on these backends, in this thread or task.

    Raises GrainlineError for a name that isn't in BACKENDS. What a backward on a GPU computes again runs on threads of
    PyTorch's own, which don't see it: for that, or for a whole process, set GRAINLINE_BACKENDS=op=backend,op=backend.
    """
    return choice.naming(backends, BACKENDS)


def swiglu_experts(
    rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor, queue: WeightQueue | None = None
) -> Tensor:
    """SwiGLU of each row by its expert → [N, D]; rows are sorted by expert, `counts_E` of them for each.

    With a queue its weights' gradients can be deferred.
    """
    chosen = _expert_backend("swiglu_experts", rows_ND.device.type, queue)
    if queue is None and chosen in library.HALVES and torch.compiler.is_compiling():
        return library.compiled(chosen, rows_ND, w13_E2FD, w2_EDF, None, None, counts_E)
    function = BACKENDS["swiglu_experts"][chosen]
    return function(rows_ND, w13_E2FD, w2_EDF, counts_E, *(() if queue is None else (queue,)))


def sort_by_expert(expert_N: Tensor, experts: int) -> Tensor:
    """The order that puts entries of a routing by expert (ids below `experts`), and keeps theirs within each."""
    return op("sort_by_expert", expert_N.device.type)(expert_N, experts)


def expert_mixture(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor,
    unit_N: Tensor,
    counts_E: Tensor,
    queue: WeightQueue | None = None,
) -> Tensor:
    """y[t] = Σ score · SwiGLU_expert(x[t]) over the entries of token t → [T, D]; lists are sorted by expert.

    With a queue its weights' gradients can be deferred.
    """
    chosen = _expert_backend("expert_mixture", x_TD.device.type, queue)
    if queue is None and chosen in library.HALVES and torch.compiler.is_compiling():
        return library.compiled(chosen, x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E)
    function = BACKENDS["expert_mixture"][chosen]
    return function(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, *(() if queue is None else (queue,)))


def _expert_backend(name: str, device_type: str, queue: WeightQueue | None) -> str:
    chosen = backend_of(name, device_type)
    return chosen if queue is None or chosen in DEFERRING else "sonic"


def expert_mixture_quantized(
    x_TD: Tensor, w13: CodedWeights, w2: CodedWeights, score_N: Tensor, unit_N: Tensor, counts_E: Tensor
) -> Tensor:
    """`expert_mixture` with weights of `coded.quantize_experts`; no gradients."""
    return op("expert_mixture_quantized", x_TD.device.type)(x_TD, w13, w2, score_N, unit_N, counts_E)


def combine_rows(rows_ND: Tensor, score_N: Tensor, unit_N: Tensor, units: int) -> Tensor:
    """y[u] = Σ score · row over the rows that belong to unit u → [units, D]."""
    return op("combine_rows", rows_ND.device.type)(rows_ND, score_N, unit_N, units)


def route_topk(score_TE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best `k` of each row → ids [T, k], scores [T, k]: best first, ties to the lower id on CPUs.

    Raises GrainlineError where a row has fewer.
    """
    if k > score_TE.shape[1]:
        raise GrainlineError(f"route_topk: {k} experts can't be chosen of {score_TE.shape[1]}.")
    found: tuple[Tensor, Tensor] = op("route_topk", score_TE.device.type)(score_TE, k)
    return found


def round_counts(
    counts_E: Tensor, mass_TE: Tensor, tile: int, rounding: Rounding, draw_E: Tensor | None = None
) -> Tensor:
    """Counts as multiples of `tile`, int64; ties go down, and so does what would be more than there are tokens.

    mass_TE: scores of each expert's candidates in the order in which it takes them; draw_E: uniform in [0, 1), for
    "stochastic". Raises GrainlineError where the draws are missing.
    """
    found: Tensor = op("round_counts", counts_E.device.type)(counts_E, mass_TE, tile, rounding, draw_E)
    return found


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, label_N: Tensor, queue: WeightQueue | None = None) -> Tensor:
    """Σ over rows of −log softmax(x · Wᵀ)[label], in nats, in float32 at least; rows with label −100 count nothing.

    With a queue the weight's gradient can be added later, by the backends that know how.
    """
    if queue is not None:
        chosen = op("linear_cross_entropy", x_ND.device.type)
        defers = chosen is not reference.linear_cross_entropy
        return (chosen if defers else cross_entropy.linear_cross_entropy)(x_ND, weight_VD, label_N, queue)
    return op("linear_cross_entropy", x_ND.device.type)(x_ND, weight_VD, label_N)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + eps) · gain over the last dimension."""
    return op("rms_norm", x.device.type)(x, gain, eps)


def rotate(x_BSHh: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Turn the first 2·r dims of every head by angles whose cos and sin are [S, 1, r] or [B, S, 1, r]."""
    return op("rotate", x_BSHh.device.type)(x_BSHh, cos, sin, interleaved)


def attention(
    q_BSHh: Tensor, k_BKGh: Tensor, v_BKGv: Tensor, allowed: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """Softmax attention of S queries over K keys, H heads of queries sharing G of keys and values → [B, S, H, v].

    allowed: bools that broadcast to [B, H, S, K], or None; causal: query i sees keys up to i (S = K).
    """
    return op("attention", q_BSHh.device.type)(q_BSHh, k_BKGh, v_BKGv, allowed, causal, scale)


def attention_decode(
    q_BHh: Tensor,
    k_PNGh: Tensor,
    v_PNGv: Tensor,
    table_BM: Tensor,
    length_B: Tensor,
    scale: float,
    k_scale_PNG: Tensor | None = None,
    v_scale_PNG: Tensor | None = None,
) -> Tensor:
    """Attention of each sequence's newest token to all its `length` tokens → [B, H, v]; 0 for a sequence of none.

    Keys and values are in pages of N tokens; `table` says which pages hold a sequence's tokens, in order. int8 elements
    count as code · scale.
    """
    function = op("attention_decode", q_BHh.device.type)
    return function(q_BHh, k_PNGh, v_PNGv, table_BM, length_B, scale, k_scale_PNG, v_scale_PNG)


def linear(x: Tensor, weight: Tensor, queue: WeightQueue | None = None) -> Tensor:
    """x […, in] · Wᵀ → […, out], in x's dtype. With a queue the weight's gradient can be deferred."""
    if queue is not None:
        return deferred.linear(x, weight, queue)
    return F.linear(x, weight.to(x.dtype))


def swiglu(x_ND: Tensor, w13_2FD: Tensor, w2_DF: Tensor, queue: WeightQueue | None = None) -> Tensor:
    """w2 · (silu(w1 · x) ⊙ (w3 · x)) for every row; w13 holds w1 (gate) and w3 (up). Shazeer 2020."""
    if queue is None:
        return reference.swiglu(x_ND, w13_2FD.to(x_ND.dtype), w2_DF.to(x_ND.dtype))
    gate_NF, up_NF = deferred.linear(x_ND, w13_2FD, queue).chunk(2, dim=-1)
    return deferred.linear(F.silu(gate_NF) * up_NF, w2_DF, queue)
