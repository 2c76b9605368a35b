"""Expert ops of the compiled core (native/experts): gathering, products, SwiGLU and the weighted sum in one call.

Kept for the backward are x, h (gate and up before the nonlinearity) and the lists, as in SonicMoE (arXiv 2512.14080,
section 3). Sums have a fixed order, whatever the number of threads, which is torch's.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import torch
from torch import Tensor

from grainline import _compiled
from grainline.documents import GrainlineError
from grainline.kernels import pool, reference, sonic
from grainline.kernels.coded import CodedWeights
from grainline.kernels.mixture import Gradients, Halves, Later, Wants
from grainline.kernels.sink import Place

PATH = "GRAINLINE_EXPERT_PATH"
"""Environment variable: the name of a path of `paths`, to be taken in place of the widest."""
FORWARD, FORWARD_FEW, BACKWARD_INPUTS, BACKWARD_WEIGHTS = range(4)
HIDDEN_CHUNK = 256
"""As in native/experts/problem.h: a score's gradient comes in a part for each so many hidden columns."""
FEW_ROWS = {torch.float32: 8, torch.bfloat16: 4}
"""Up to so many entries per expert that has any, each weight is read as it lies, without panels. By dtype of x."""
FEW_CODED_ROWS = 8
"""The same where weights are codes."""
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
CODES = {8: 2, 4: 3}
EXPERTS_AT_ONCE = 16
"""Experts whose codes are turned into weights together, where there are many entries."""
TENSORS: tuple[str, ...] = ("x", "w13", "w2", "score", "unit", "counts", "h", "act", "out")
TENSORS += ("d_out", "d_h", "d_score", "d_x", "d_w13", "d_w2", "scale13", "scale2")
"""In the order of `Problem` in native/experts/problem.h."""


@functools.cache
def paths() -> tuple[str, ...]:
    """The instruction sets that this processor's kernels can use, the narrowest first; none without a compiled core."""
    count = _compiled.function("gl_experts_paths", [], ctypes.c_int64)
    name = _compiled.function("gl_experts_path_name", [ctypes.c_int64], ctypes.c_char_p)
    return () if count is None or name is None else tuple(name(i).decode() for i in range(count()))


def path() -> str:
    """The one in use. Raises GrainlineError where GRAINLINE_EXPERT_PATH names none of them."""
    wanted = os.environ.get(PATH, paths()[-1])
    if wanted not in paths():
        raise GrainlineError(f"{PATH}={wanted}: this processor has {', '.join(paths())}.")
    return wanted


@functools.cache
def _run() -> Any:
    """The C function; see native/experts/api.cpp."""
    one = ctypes.c_int64
    return _compiled.function(
        "gl_experts_run", [ctypes.c_void_p, one, one, one, one, ctypes.c_void_p, ctypes.c_void_p], one
    )


_Numbers, _Tensors = ctypes.c_int64 * 7, ctypes.c_void_p * len(TENSORS)


def call(
    phase: int, weight_dtype: int, hidden: int, group: int, tensors: dict[str, Tensor], adds: bool = False
) -> None:
    """Run one phase on contiguous tensors. What isn't among them isn't made. `adds`: weights' gradients are added to.

    Raises GrainlineError where the lists contradict the sizes.
    """
    x, counts, unit = tensors["x"], tensors["counts"], tensors.get("unit")
    tokens, model = x.shape
    entries = tokens if unit is None else len(unit)
    numbers = _Numbers(tokens, entries, len(counts), model, hidden, group, adds)
    at = _Tensors(*[None if (t := tensors.get(name)) is None else t.data_ptr() for name in TENSORS])
    wrong = _run()(pool.handle(), paths().index(path()), phase, DTYPES[x.dtype], weight_dtype, numbers, at)
    if wrong == 1:
        raise GrainlineError(
            f"counts of {len(counts)} experts add up to {int(counts.sum())} (the least is {int(counts.min())}), "
            f"but there are {entries} entries: they must be sorted by expert, and counted once."
        )
    if wrong == 2:
        assert unit is not None
        raise GrainlineError(f"entries name tokens from {int(unit.min())} to {int(unit.max())}; there are {tokens}.")
    if wrong:
        raise MemoryError("no memory for the scratch space of the expert kernels")


def forward(
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """See `mixture.Forward`. Float32, bfloat16, and bfloat16 with float32 weights; other dtypes as `sonic`."""
    if not _serves(x_TD, w13_E2FD, w2_EDF):
        return sonic.forward(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, keep)
    check(x_TD, w13_E2FD.shape, w2_EDF.shape, score_N, unit_N, counts_E)
    tensors = _ready(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E)
    x_TD, weights = tensors["x"], tensors["w13"].dtype
    entries = len(x_TD) if unit_N is None else len(unit_N)
    hidden = w2_EDF.shape[-1]
    few = entries <= FEW_ROWS[x_TD.dtype] * int(tensors["counts"].count_nonzero())
    h_NG = x_TD.new_empty(entries, 2 * hidden) if keep else None
    tensors["out"] = out_TD = torch.empty_like(x_TD)
    if h_NG is not None:
        tensors["h"] = h_NG
    if not few:
        tensors["act"] = x_TD.new_empty(entries, hidden)
    call(FORWARD_FEW if few else FORWARD, DTYPES[weights], hidden, 0, tensors)
    return out_TD, h_NG


def backward(
    d_out_TD: Tensor,
    x_TD: Tensor,
    w13_E2FD: Tensor,
    w2_EDF: Tensor,
    score_N: Tensor | None,
    unit_N: Tensor | None,
    counts_E: Tensor,
    hidden_NG: Tensor,
    wants: Wants,
    later: Later | None = None,
    spends: bool = False,
) -> Gradients:
    """See `mixture.Backward`."""
    if not _serves(x_TD, w13_E2FD, w2_EDF):
        return sonic.backward(d_out_TD, x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E, hidden_NG, wants, later)
    tensors = _ready(x_TD, w13_E2FD, w2_EDF, score_N, unit_N, counts_E) | {"d_out": d_out_TD.contiguous()}
    x_TD, w13, w2 = tensors["x"], tensors["w13"], tensors["w2"]
    entries, hidden = len(hidden_NG), w2.shape[-1]

    def run(phase: int, made: dict[str, Tensor], adds: bool = False) -> None:
        call(phase, DTYPES[w13.dtype], hidden, 0, tensors | made, adds)

    d_score_PN = torch.empty(-(-hidden // HIDDEN_CHUNK), entries)
    act_NF, d_h_NG = x_TD.new_empty(entries, hidden), hidden_NG if spends else torch.empty_like(hidden_NG)
    run(BACKWARD_INPUTS, {"h": hidden_NG, "act": act_NF, "d_h": d_h_NG, "d_score": d_score_PN})
    d_score_N = None
    if score_N is not None and wants.score:
        d_score_N = (d_score_PN[0] if len(d_score_PN) == 1 else d_score_PN.sum(0)).to(score_N.dtype)

    def weight(name: str, like: Tensor, made_of: dict[str, Tensor], place: Place | None = None) -> Tensor:
        direct = place is not None and place.gradient.dtype == like.dtype and place.gradient.is_contiguous()
        found = place.gradient if place is not None and direct else torch.empty_like(like)
        run(BACKWARD_WEIGHTS, {name: found} | made_of, adds=place is not None and direct and place.holds)
        if place is not None and not direct:
            place.add(found)
        return found

    # One after the other, so that each has the memory of what is no longer needed.
    d_w2 = d_w13 = d_x_TD = None
    if later is not None:
        later("w2", functools.partial(weight, "d_w2", w2, {"act": act_NF}))
    elif wants.w2:
        d_w2 = weight("d_w2", w2, {"act": act_NF}).to(w2_EDF.dtype)
    del act_NF
    if wants.x:
        d_x_TD = torch.empty_like(x_TD)
        run(BACKWARD_INPUTS, {"d_h": d_h_NG, "d_x": d_x_TD})
    if later is not None:
        later("w13", functools.partial(weight, "d_w13", w13, {"d_h": d_h_NG}))
    elif wants.w13:
        d_w13 = weight("d_w13", w13, {"d_h": d_h_NG}).to(w13_E2FD.dtype)
    return Gradients(d_x_TD, d_w13, d_w2, d_score_N)


def _ready(
    x_TD: Tensor, w13: Tensor, w2: Tensor, score_N: Tensor | None, unit_N: Tensor | None, counts_E: Tensor
) -> dict[str, Tensor]:
    """As the core takes them: contiguous, float32 scores, lists of int64, weights of one dtype that it can read."""
    narrow = x_TD.dtype != torch.float32 and w13.dtype == w2.dtype == torch.bfloat16
    dtype = torch.bfloat16 if narrow else torch.float32
    found = {"x": _plain(x_TD, x_TD.dtype), "w13": _plain(w13, dtype), "w2": _plain(w2, dtype)}
    found["counts"] = _plain(counts_E, torch.int64)
    if score_N is not None:
        found["score"] = _plain(score_N, torch.float32)
    if unit_N is not None:
        found["unit"] = _plain(unit_N, torch.int64)
    return found


def _plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Contiguous, of that dtype. For few tokens microseconds count: what fits is passed on without an op."""
    return x if x.dtype is dtype and x.is_cpu and x.is_contiguous() else x.to("cpu", dtype).contiguous()


def _serves(x_TD: Tensor, w13: Tensor, w2: Tensor) -> bool:
    """Whether the core has kernels for them."""
    on_cpu = x_TD.device.type == w13.device.type == w2.device.type == "cpu"
    return on_cpu and {x_TD.dtype, w13.dtype, w2.dtype} <= DTYPES.keys() and bool(paths())


def check(
    x_TD: Tensor, w13: torch.Size, w2: torch.Size, score_N: Tensor | None, unit_N: Tensor | None, counts_E: Tensor
) -> None:
    """Raises GrainlineError where sizes contradict each other."""
    experts, two, hidden, model = w13 if len(w13) == 4 else (0, 0, 0, 0)
    if two != 2 or w2 != (experts, model, hidden) or x_TD.dim() != 2 or x_TD.shape[1] != model:
        found = ", ".join(str(list(size)) for size in (w13, w2, x_TD.shape))
        raise GrainlineError(f"experts of sizes {found}: they should be w13 [E, 2, F, D], w2 [E, D, F] and x [T, D].")
    if counts_E.shape != (experts,):
        raise GrainlineError(f"counts of {list(counts_E.shape)} experts; the weights are of {experts}.")
    if score_N is not None:
        entries = (len(x_TD),) if unit_N is None else unit_N.shape
        if score_N.dim() != 1 or score_N.shape != entries:
            raise GrainlineError(f"{list(score_N.shape)} scores for {list(entries)} entries; each has one.")


HALVES = Halves(forward, backward, sinks=True)


def expert_mixture_quantized(
    x_TD: Tensor, w13: CodedWeights, w2: CodedWeights, score_N: Tensor, unit_N: Tensor, counts_E: Tensor
) -> Tensor:
    """See `reference.expert_mixture_quantized`. Codes are read as they lie where entries are few; no gradients."""
    if not paths() or x_TD.dtype not in DTYPES or x_TD.device.type != "cpu":
        return reference.expert_mixture_quantized(x_TD, w13, w2, score_N, unit_N, counts_E)
    check(x_TD, w13.shape, w2.shape, score_N, unit_N, counts_E)
    if (w13.bits, w13.group) != (w2.bits, w2.group):
        raise GrainlineError(f"w13 has {w13.bits} bits in groups of {w13.group}, w2 {w2.bits} in groups of {w2.group}.")
    with torch.no_grad():
        if len(unit_N) > FEW_CODED_ROWS * int(counts_E.count_nonzero()):
            return _by_groups_of_experts(x_TD, w13, w2, score_N, unit_N, counts_E)
        tensors = _ready(x_TD, w13.scale, w2.scale, score_N, unit_N, counts_E)
        tensors["out"] = out_TD = torch.empty_like(tensors["x"])
        tensors |= {"w13": w13.codes, "w2": w2.codes, "scale13": w13.scale, "scale2": w2.scale}
        call(FORWARD_FEW, CODES[w13.bits], w2.depth, w13.group, tensors)
        return out_TD


def _by_groups_of_experts(
    x_TD: Tensor, w13: CodedWeights, w2: CodedWeights, score_N: Tensor, unit_N: Tensor, counts_E: Tensor
) -> Tensor:
    """Turn some experts' codes into weights, compute with them, and go on with the next."""
    out_TD, first = torch.zeros(x_TD.shape), 0
    for e in range(0, len(counts_E), EXPERTS_AT_ONCE):
        some = slice(e, e + EXPERTS_AT_ONCE)
        entries = slice(first, first := first + int(counts_E[some].sum()))
        some_13, some_2 = (each[some].dequantized(x_TD.dtype) for each in (w13, w2))
        out_TD += HALVES.mixture(x_TD, some_13, some_2, score_N[entries], unit_N[entries], counts_E[some])
    return out_TD.to(x_TD.dtype)
