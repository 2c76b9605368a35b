"""The hot loops: one op, several backends, one table that says which one runs where. `reference` is the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grainline.kernels import cross_entropy, grouped, looped, reference

Op = Callable[..., Any]

BACKENDS: dict[str, dict[str, Op]] = {
    "swiglu_experts": {
        "reference": reference.swiglu_experts,
        "looped": looped.swiglu_experts,
        "grouped": grouped.swiglu_experts,
    },
    "combine_rows": {"reference": reference.combine_rows, "looped": looped.combine_rows},
    "linear_cross_entropy": {
        "reference": reference.linear_cross_entropy,
        "chunked": cross_entropy.linear_cross_entropy,
    },
}
"""op → backend → function. All backends of an op have one signature and pass the same tests."""

CHOICE: dict[str, dict[str, str]] = {
    "cpu": {"swiglu_experts": "looped", "combine_rows": "looped", "linear_cross_entropy": "chunked"},
    "cuda": {"swiglu_experts": "grouped", "combine_rows": "looped", "linear_cross_entropy": "chunked"},
    "mps": {"swiglu_experts": "looped", "combine_rows": "looped", "linear_cross_entropy": "chunked"},
}
"""device type → op → backend; a device type that isn't here runs the reference."""


def op(name: str, device_type: str) -> Op:
    """The function that runs op `name` on this type of device."""
    return BACKENDS[name][CHOICE.get(device_type, {}).get(name, "reference")]


def row_quantum(rows: int, experts: int, dtype: torch.dtype, device_type: str) -> int:
    """What row counts per expert should be a multiple of; extra rows are any row with score 0.

    oneDNN compiles a bfloat16 product anew for each number of rows and remembers only so many: with free counts that
    takes longer than the products. The quantum keeps the shapes few and the waste under a quarter.
    """
    if device_type != "cpu" or dtype != torch.bfloat16:
        return 1
    return next((q for q in (32, 16, 8, 4) if rows >= 2 * q * experts), 1)


def swiglu_experts(rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """SwiGLU of each row by its expert → [N, D]; rows are sorted by expert, `counts_E` of them for each."""
    return op("swiglu_experts", rows_ND.device.type)(rows_ND, w13_E2FD, w2_EDF, counts_E)


def combine_rows(rows_ND: Tensor, score_N: Tensor, unit_N: Tensor, units: int) -> Tensor:
    """y[u] = Σ score · row over the rows that belong to unit u → [units, D]."""
    return op("combine_rows", rows_ND.device.type)(rows_ND, score_N, unit_N, units)


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, label_N: Tensor) -> Tensor:
    """Σ over rows of −log softmax(x · Wᵀ)[label], in nats, float32; rows with label −100 count nothing."""
    return op("linear_cross_entropy", x_ND.device.type)(x_ND, weight_VD, label_N)


swiglu = reference.swiglu
