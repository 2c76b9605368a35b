"""Attention of one query per sequence from the compiled core: over pages, and over a dense cache as pages."""

from __future__ import annotations

import torch
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.kernels import reference, short_attention
from grainline.kernels.native_ops import I64, call, runs, threads, wants_gradient

ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
MOST_HEADS = 256
FEW_KEYS = {torch.float32: 1 << 17, torch.bfloat16: 1 << 19}
"""Elements of a dense cache's keys below which PyTorch's attention takes less time (benchmarks/bench_ops.py)."""


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
    """See `reference.attention_decode`. Raises GrainlineError for lengths or pages that are out of range."""
    scales = [x for x in (k_scale_PNG, v_scale_PNG) if x is not None]
    pages_fit = (
        k_PNGh.dtype in ELEMENTS and k_PNGh.dtype == v_PNGv.dtype and (k_PNGh.dtype == torch.int8) == bool(scales)
    )
    if not pages_fit or not runs(q_BHh) or q_BHh.shape[1] > MOST_HEADS or wants_gradient(q_BHh, k_PNGh, v_PNGv):
        return reference.attention_decode(q_BHh, k_PNGh, v_PNGv, table_BM, length_B, scale, k_scale_PNG, v_scale_PNG)
    table_BM, length_B = table_BM.long().contiguous(), length_B.long().contiguous()
    out_BHv = _decode(q_BHh, k_PNGh, v_PNGv, table_BM, length_B, scale, k_scale_PNG, v_scale_PNG)
    return out_BHv.to(q_BHh.dtype)


def _decode(
    q_BHh: Tensor,
    k_PNGh: Tensor,
    v_PNGv: Tensor,
    table_BM: Tensor | None,
    length_B: Tensor | None,
    scale: float,
    k_scale_PNG: Tensor | None = None,
    v_scale_PNG: Tensor | None = None,
) -> Tensor:
    """In float32. Without a table and lengths each sequence has the page of its own number, and all of it."""
    (batch, heads, k_size), (pages, page_tokens, groups, v_size) = q_BHh.shape, v_PNGv.shape
    k_PNGh, v_PNGv = (x if x.stride(-1) == 1 else x.contiguous() for x in (k_PNGh, v_PNGv))
    q_BHh = q_BHh.float().contiguous()
    scales = [None if x is None else x.float().contiguous() for x in (k_scale_PNG, v_scale_PNG)]
    out_BHv = torch.empty(batch, heads, v_size)
    longest = 1 if table_BM is None else table_BM.shape[1]
    sizes = (I64 * 8)(batch, heads, groups, k_size, v_size, pages, page_tokens, longest)
    strides = (I64 * 6)(*k_PNGh.stride()[:3], *v_PNGv.stride()[:3])
    tensors = [q_BHh, k_PNGh, v_PNGv, *scales, table_BM, length_B, out_BHv]
    pointers = [None if x is None else x.data_ptr() for x in tensors]
    start = *threads(k_PNGh.numel()), ELEMENTS[k_PNGh.dtype]
    wrong = call("gl_decode")(*start, *pointers, scale, sizes, strides)
    if wrong >= 0:
        assert length_B is not None
        raise GrainlineError(
            f"sequence {wrong}: its length, {int(length_B[wrong])}, or one of its pages is out of range; there are "
            f"{pages} pages of {page_tokens} tokens, and up to {longest} of them in a row of the table."
        )
    return out_BHv


def attention(
    q_BSHh: Tensor, k_BKGh: Tensor, v_BKGv: Tensor, allowed: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """See `reference.attention`; a step of decoding, one query that sees many keys, is made as `attention_decode`."""
    if (
        q_BSHh.shape[1] != 1
        or k_BKGh.numel() < FEW_KEYS.get(k_BKGh.dtype, 0)
        or allowed is not None
        or q_BSHh.shape[2] > MOST_HEADS
        or not runs(q_BSHh, k_BKGh, v_BKGv)
        or wants_gradient(q_BSHh, k_BKGh, v_BKGv)
    ):
        return short_attention.attention(q_BSHh, k_BKGh, v_BKGv, allowed, causal, scale)
    return over_dense(q_BSHh, k_BKGh, v_BKGv, scale)


def over_dense(q_BSHh: Tensor, k_BKGh: Tensor, v_BKGv: Tensor, scale: float) -> Tensor:
    """One query per sequence (S = 1) over all keys of a dense cache, of which each sequence's is one page."""
    return _decode(q_BSHh[:, 0], k_BKGh, v_BKGv, None, None, scale).to(q_BSHh.dtype).unsqueeze(1)
