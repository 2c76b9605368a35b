"""The ops beside the experts from the compiled core (`native/ops`), on torch's threads; other backends where it can't.

It takes float32 and bfloat16 on CPUs and adds up in float32. Pointers and sizes go out; shapes are checked here.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from grainline import _compiled
from grainline.documents import GrainlineError
from grainline.kernels import cross_entropy, elementwise, reference
from grainline.kernels.deferred import WeightQueue
from grainline.kernels.executor import MISSING
from grainline.kernels.pool import handle

I32, I64, F32, POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_HEAD = [POINTER, I64, I32]  # executor, instruction set, whether elements are bfloat16
SIGNATURES: dict[str, tuple[list[Any], Any]] = {
    "gl_sort_by_expert": ([POINTER, POINTER, I64, I64, POINTER], I64),
    "gl_best": ([POINTER, I64, POINTER, POINTER, POINTER, I64, I64, I64], None),
    "gl_norm": ([*_HEAD, POINTER, I64, I64, I64, POINTER, F32, POINTER, POINTER, I64, I64], None),
    "gl_norm_back": ([*_HEAD, *[POINTER] * 8, I64, I64], None),
    "gl_rotate": ([*_HEAD, *[POINTER] * 5, I64], None),
    "gl_cross_entropy": ([*_HEAD, POINTER, POINTER, POINTER, I32, I64, I64], I64),
    "gl_decode": ([*_HEAD, *[POINTER] * 8, F32, POINTER, POINTER], I64),
    "gl_ops_sets": ([], I64),
    "gl_ops_set_name": ([I64], ctypes.c_char_p),
    "gl_most_choices": ([], I64),
}
_forced: ContextVar[int] = ContextVar("instruction set", default=-1)  # the widest
FEW = 1 << 14
"""Elements of a call below which a second thread costs what it brings (as in native/ops/boundary.cpp)."""
FEW_ENTRIES, FEW_NUMBERS = 128, 1 << 11
"""Entries to sort, and float32 numbers to normalise without a gradient, that PyTorch is as quick with."""


@functools.cache
def call(name: str) -> Callable[..., Any]:
    """The C function. Raises GrainlineError where the compiled core is missing."""
    found = _compiled.function(name, *SIGNATURES[name])
    if found is None:
        raise GrainlineError(MISSING)
    return found


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Those that this processor can run, the narrowest first; none without the compiled core."""
    if _compiled.function("gl_ops_sets", *SIGNATURES["gl_ops_sets"]) is None:
        return ()
    return tuple(call("gl_ops_set_name")(i).decode() for i in range(call("gl_ops_sets")()))


@contextmanager
def using(instruction_set: str) -> Iterator[None]:
    """Within, the ops use it rather than the widest. Raises GrainlineError that lists what there is."""
    if instruction_set not in instruction_sets():
        there = ", ".join(instruction_sets()) or "no compiled core"
        raise GrainlineError(f"instruction set '{instruction_set}': there is none here. There is {there}.")
    token = _forced.set(instruction_sets().index(instruction_set))
    try:
        yield
    finally:
        _forced.reset(token)


def runs(*tensors: Tensor) -> bool:
    """Whether the core can be given these: plain CPU tensors of one dtype that it knows."""
    dtype = tensors[0].dtype
    if (dtype is not torch.float32 and dtype is not torch.bfloat16) or not instruction_sets():
        return False
    for x in tensors:  # a loop: this runs before every op
        if x.dtype is not dtype or not x.is_cpu or (type(x) is not Tensor and type(x) is not Parameter):
            return False
    return True


def threads(elements: int) -> tuple[int | None, int]:
    """What functions begin with: the executor, none for work that is done sooner by one thread; the instruction set."""
    return handle() if elements >= FEW else None, _forced.get()


def head(x: Tensor) -> tuple[int | None, int, bool]:
    """The same, and whether elements are bfloat16."""
    return *threads(x.numel()), x.dtype is torch.bfloat16


def wants_gradient(*tensors: Tensor) -> bool:
    """Whether autograd has to know."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


# --- routing


def sort_by_expert(expert_N: Tensor, experts: int) -> Tensor:
    """See `reference.sort_by_expert`. Raises GrainlineError for an id that is no expert's."""
    known = expert_N.dtype == torch.int64 and expert_N.device.type == "cpu" and bool(instruction_sets())
    if not known or len(expert_N) < FEW_ENTRIES:
        return reference.sort_by_expert(expert_N, experts)
    expert_N = expert_N.contiguous()
    order_N = torch.empty_like(expert_N)
    wrong = call("gl_sort_by_expert")(
        threads(len(expert_N))[0], expert_N.data_ptr(), len(expert_N), experts, order_N.data_ptr()
    )
    if wrong >= 0:
        raise GrainlineError(
            f"routing: entry {wrong} goes to expert {int(expert_N[wrong])}, and there are {experts}, numbered from 0."
        )
    return order_N


def route_topk(score_TE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See `reference.route_topk`."""
    choices = score_TE.shape[1]
    narrow = score_TE.dtype != torch.float32 or not runs(score_TE)
    if narrow or not 0 < k <= min(choices, 64) or choices > call("gl_most_choices")():
        return reference.route_topk(score_TE, k)
    score_TE = score_TE.contiguous()
    expert_TK = torch.empty(len(score_TE), k, dtype=torch.int64)
    best_TK = torch.empty(len(score_TE), k)
    call("gl_best")(
        *threads(score_TE.numel()), score_TE.data_ptr(), expert_TK.data_ptr(), best_TK.data_ptr(), *score_TE.shape, k
    )
    return expert_TK, score_TE.gather(1, expert_TK) if wants_gradient(score_TE) else best_TK


# --- norm


def rows_of(x: Tensor) -> tuple[Tensor, int, int, int]:
    """x, copied if it must be, and where its rows [outer, inner] begin: inner, outer stride, inner stride."""
    size = x.shape[-1]
    if x.is_contiguous():
        return x, 1, size, 0
    if x.stride(-1) == 1 and x.dim() >= 2:
        outer, strides = x.shape[:-2], x.stride()[:-2]
        if all(strides[i] == strides[i + 1] * outer[i + 1] for i in range(len(outer) - 1)):
            return x, x.shape[-2], strides[-1] if strides else 0, x.stride(-2)
    return x.contiguous(), 1, size, 0


def _norm(x: Tensor, gain: Tensor, eps: float, keep: bool) -> tuple[Tensor, Tensor | None]:
    """The normalised rows, and what each was multiplied by."""
    x, *strides = rows_of(x)
    out = torch.empty(x.shape, dtype=x.dtype)
    rows, size = x.numel() // max(1, x.shape[-1]), x.shape[-1]
    inverse_N = torch.empty(rows) if keep else None
    kept, gain = None if inverse_N is None else inverse_N.data_ptr(), gain.contiguous()
    call("gl_norm")(*head(x), x.data_ptr(), *strides, gain.data_ptr(), eps, out.data_ptr(), kept, rows, size)
    return out, inverse_N


class RmsNorm(Function):
    """See `reference.rms_norm`; keeps x and one number per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        out, inverse_N = _norm(x, gain, eps, keep=True)
        ctx.save_for_backward(x, gain, inverse_N)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain, inverse_N = ctx.saved_tensors
        (x, *x_rows), (d_out, *d_rows), gain = rows_of(x), rows_of(d_out), gain.contiguous()
        d_x, d_gain = torch.empty(x.shape, dtype=x.dtype), torch.empty(gain.shape)
        strides = (I64 * 3)(*x_rows), (I64 * 3)(*d_rows)
        call("gl_norm_back")(
            *head(x), x.data_ptr(), strides[0], gain.data_ptr(), inverse_N.data_ptr(), d_out.data_ptr(), strides[1],
            d_x.data_ptr(), d_gain.data_ptr(), len(inverse_N), x.shape[-1],
        )  # fmt: skip
        return d_x, d_gain.to(gain.dtype), None


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """See `reference.rms_norm`."""
    if not runs(x, gain) or gain.shape != x.shape[-1:]:
        return elementwise.rms_norm(x, gain, eps)
    if wants_gradient(x, gain):
        return RmsNorm.apply(x, gain, eps)
    if x.dtype is torch.float32 and x.numel() <= FEW_NUMBERS:
        return reference.rms_norm(x, gain, eps)
    return _norm(x, gain, eps, keep=False)[0]


# --- rotation


def _turn(x_BSHh: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, back: bool) -> Tensor:
    batch, length, heads, size = x_BSHh.shape
    if x_BSHh.stride(-1) != 1 or (batch > 1 and x_BSHh.stride(0) != x_BSHh.stride(1) * length):
        x_BSHh = x_BSHh.contiguous()
    r = cos.shape[-1]
    cos, sin = (x.expand(batch, length, 1, r) for x in (cos, sin))
    if cos.stride() != sin.stride() or (cos.stride(-1) != 1 and r > 1):
        cos, sin = cos.contiguous(), sin.contiguous()
    out_BSHh = torch.empty(x_BSHh.shape, dtype=x_BSHh.dtype)
    how = (I64 * 10)(
        heads, size, r, *x_BSHh.stride()[1:3], length, *cos.stride()[:2], interleaved, back
    )  # fmt: skip
    call("gl_rotate")(
        *head(x_BSHh), x_BSHh.data_ptr(), cos.data_ptr(), sin.data_ptr(), out_BSHh.data_ptr(), how, batch * length
    )
    return out_BSHh


class Rotate(Function):
    """See `reference.rotate`; keeps only the angles: the gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return _turn(x, cos, sin, interleaved, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(d_out, cos, sin, ctx.interleaved, back=True), None, None, None


def rotate(x_BSHh: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """See `reference.rotate`."""
    if not runs(x_BSHh, cos, sin) or x_BSHh.dim() != 4 or cos.shape != sin.shape or cos.shape[-2] != 1:
        return elementwise.rotate(x_BSHh, cos, sin, interleaved)
    if wants_gradient(x_BSHh):
        return Rotate.apply(x_BSHh, cos, sin, interleaved)
    return _turn(x_BSHh, cos, sin, interleaved, back=False)


# --- loss


def softmax_(logits_NV: Tensor, label_N: Tensor, loss_N: Tensor, gradient: bool) -> Tensor:
    """See `cross_entropy.Softmax`; in one pass over each row. Raises GrainlineError for a label that is no id."""
    rows, size = logits_NV.shape
    wrong = call("gl_cross_entropy")(
        *head(logits_NV), logits_NV.data_ptr(), label_N.data_ptr(), loss_N.data_ptr(), gradient, rows, size
    )
    if wrong >= 0:
        raise GrainlineError(
            f"label {int(label_N[wrong])}: the vocabulary has {size} ids, from 0; -100 counts nothing."
        )
    return logits_NV


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, label_N: Tensor, queue: WeightQueue | None = None) -> Tensor:
    """See `cross_entropy.linear_cross_entropy`."""
    if not runs(x_ND) or label_N.dtype != torch.int64:
        return cross_entropy.linear_cross_entropy(x_ND, weight_VD, label_N, queue)
    return cross_entropy.linear_cross_entropy(x_ND, weight_VD, label_N.contiguous(), queue, softmax_)
