"""Every op in plain PyTorch, with PyTorch's own gradients: the truth that the other backends are tested against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from grainline.kernels.coded import CodedWeights


def swiglu(x_ND: Tensor, w13_2FD: Tensor, w2_DF: Tensor) -> Tensor:
    """w2 · (silu(w1 · x) ⊙ (w3 · x)) for every row; w13 holds w1 (gate) and w3 (up). Shazeer 2020."""
    gate_NF, up_NF = F.linear(x_ND, w13_2FD.flatten(0, 1)).chunk(2, dim=-1)
    return F.linear(F.silu(gate_NF) * up_NF, w2_DF)


def swiglu_experts(rows_ND: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """SwiGLU of each row by its expert: rows are sorted by expert, `counts_E` of them for each."""
    pieces = rows_ND.split(counts_E.tolist())
    return torch.cat([swiglu(x, w13, w2) for x, w13, w2 in zip(pieces, w13_E2FD, w2_EDF, strict=True)])


def sort_by_expert(expert_N: Tensor, experts: int) -> Tensor:
    """The order that puts entries of a routing by expert (ids below `experts`), and keeps theirs within each."""
    return expert_N.argsort(stable=True)


def route_topk(score_TE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best `k` of each row, best first, ties to the lower id, NaN before all → ids [T, k], scores [T, k]."""
    score_TE, expert_TE = score_TE.sort(dim=-1, descending=True, stable=True)
    return expert_TE[:, :k], score_TE[:, :k]


def expert_mixture(
    x_TD: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, score_N: Tensor, unit_N: Tensor, counts_E: Tensor
) -> Tensor:
    """y[t] = Σ score · SwiGLU_expert(x[t]) over the entries of token t → [T, D]; lists are sorted by expert."""
    rows_ND = swiglu_experts(x_TD.index_select(0, unit_N), w13_E2FD, w2_EDF, counts_E)
    return combine_rows(rows_ND, score_N, unit_N, x_TD.shape[0])


def expert_mixture_quantized(
    x_TD: Tensor, w13: CodedWeights, w2: CodedWeights, score_N: Tensor, unit_N: Tensor, counts_E: Tensor
) -> Tensor:
    """`expert_mixture` with weights that are codes and scales; w13 [E, 2, F, D], w2 [E, D, F]. No gradients."""
    weights = w13.dequantized(x_TD.dtype), w2.dequantized(x_TD.dtype)
    return expert_mixture(x_TD, *weights, score_N, unit_N, counts_E)


def combine_rows(rows_ND: Tensor, score_N: Tensor, unit_N: Tensor, units: int) -> Tensor:
    """y[u] = Σ score · row over the rows that belong to unit u → [units, D]."""
    out_TD = rows_ND.new_zeros(units, rows_ND.shape[-1])
    return out_TD.index_add(0, unit_N, rows_ND * score_N.unsqueeze(-1).to(rows_ND.dtype))


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, label_N: Tensor) -> Tensor:
    """Σ over rows of −log softmax(x · Wᵀ)[label], in nats; rows with label −100 count nothing."""
    logits_NV = F.linear(x_ND, weight_VD)
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    return F.cross_entropy(logits_NV.to(wide), label_N, reduction="sum", ignore_index=-100)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + eps) · gain over the last dimension."""
    return F.rms_norm(x, gain.shape, gain, eps)


def rotate(x_BSHh: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Turn the first 2·r dims of every head by angles whose cos and sin are [S, 1, r] or [B, S, 1, r]."""
    r = cos.shape[-1]
    turned, rest = x_BSHh[..., : 2 * r], x_BSHh[..., 2 * r :]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = turned[..., :r], turned[..., r:]
        out = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return torch.cat((out, rest), dim=-1)


def attention(
    q_BSHh: Tensor, k_BKGh: Tensor, v_BKGv: Tensor, allowed: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """Softmax attention of S queries over K keys, H heads of queries sharing G of keys and values → [B, S, H, v].

    allowed: bools that broadcast to [B, H, S, K], or None; causal: query i sees keys up to i (S = K).
    """
    out_BHSv = F.scaled_dot_product_attention(
        q_BSHh.transpose(1, 2),
        k_BKGh.transpose(1, 2),
        v_BKGv.transpose(1, 2),
        attn_mask=allowed,
        is_causal=causal,
        scale=scale,
        enable_gqa=q_BSHh.shape[2] != k_BKGh.shape[2],
    )
    return out_BHSv.transpose(1, 2)


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
    q_BHh, dtype = q_BHh.to(torch.promote_types(q_BHh.dtype, torch.float32)), q_BHh.dtype
    shared, out = q_BHh.shape[1] // k_PNGh.shape[2], []
    for q_Hh, pages, length in zip(q_BHh, table_BM.tolist(), length_B.tolist(), strict=True):
        k_LGh, v_LGv = (x[pages].flatten(0, 1)[:length].to(q_Hh.dtype) for x in (k_PNGh, v_PNGv))
        if k_scale_PNG is not None and v_scale_PNG is not None:
            k_LGh = k_LGh * k_scale_PNG[pages].flatten(0, 1)[:length].unsqueeze(-1)
            v_LGv = v_LGv * v_scale_PNG[pages].flatten(0, 1)[:length].unsqueeze(-1)
        q_GRh = q_Hh.unflatten(0, (-1, shared))
        weight_GRL = torch.einsum("grh,lgh->grl", q_GRh, k_LGh).mul(scale).softmax(-1)
        out.append(torch.einsum("grl,lgv->grv", weight_GRL, v_LGv).flatten(0, 1))
    return torch.stack(out).to(dtype)
