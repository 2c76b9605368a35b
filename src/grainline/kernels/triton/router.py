"""A router's scores and choice in one pass; its backward keeps the logits and the ids. SonicMoE, section 4.4.

The paper sorts, with the column in a score's lowest bits; here the largest is taken K times, which rounds no score.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from grainline.documents import GrainlineError
from grainline.kernels.stream.triton import why_not
from grainline.kernels.triton.launch import on, wide

Scoring = Literal["none", "softmax", "sigmoid"]
SCORINGS: tuple[Scoring, ...] = ("none", "softmax", "sigmoid")
MOST_EXPERTS, MOST_CHOSEN = 4096, 64
BLOCK_ELEMENTS = 4096  # of tokens × experts in one program


def top_k(logits_TE: Tensor, k: int, scoring: Scoring, bias_E: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scores of the logits, and the best K of score + bias, best first, ties to the lower id, NaN before all.

    → scores [T, K] without the bias, ids [T, K]. Raises GrainlineError where Triton can't run, or for too many experts.
    """
    experts = logits_TE.shape[1]
    reason = why_not(str(logits_TE.device))
    if not reason and not (experts <= MOST_EXPERTS and k <= MOST_CHOSEN):
        reason = f"at most {MOST_CHOSEN} of {MOST_EXPERTS} experts can be chosen, not {k} of {experts}"
    if reason:
        raise GrainlineError(f"top_k by Triton: {reason}. Another backend: reference.")
    if k > experts:
        raise GrainlineError(f"top_k: {k} experts can't be chosen of {experts}.")
    if scoring not in SCORINGS:
        raise GrainlineError(f"top_k: '{scoring}' is no way to score; there is {', '.join(SCORINGS)}.")
    score_TK, expert_TK = TopK.apply(logits_TE.contiguous(), k, scoring, bias_E)
    return score_TK, expert_TK


def route_topk(score_TE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See `reference.route_topk`."""
    score_TK, expert_TK = top_k(score_TE, k, "none")
    return expert_TK, score_TK


class TopK(Function):
    """See `top_k`."""

    @staticmethod
    def forward(ctx: Any, logits_TE: Tensor, k: int, scoring: Scoring, bias_E: Tensor | None) -> tuple[Tensor, Tensor]:
        score_TK, expert_TK = forward(logits_TE, k, scoring, bias_E)
        ctx.save_for_backward(logits_TE, expert_TK)
        ctx.scoring = scoring
        ctx.mark_non_differentiable(expert_TK)
        return score_TK, expert_TK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_score_TK: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        logits_TE, expert_TK = ctx.saved_tensors
        return backward(d_score_TK.contiguous(), logits_TE, expert_TK, ctx.scoring), None, None, None


@torch.library.custom_op("grainline::triton_top_k", mutates_args=())
def forward(logits_TE: Tensor, k: int, scoring: str, bias_E: Tensor | None) -> tuple[Tensor, Tensor]:
    """(scores [T, K], ids [T, K])."""
    from grainline.kernels.triton import router_kernel

    tokens, experts = logits_TE.shape
    score_TK = logits_TE.new_empty(tokens, k)
    expert_TK = torch.empty(tokens, k, dtype=torch.int64, device=logits_TE.device)
    columns, block = _block(experts)
    if tokens and k:
        with on(logits_TE):
            router_kernel.top_k[(-(-tokens // block),)](
                logits_TE,
                logits_TE if bias_E is None else bias_E,
                score_TK,
                expert_TK,
                tokens,
                experts,
                k,
                SCORING=SCORINGS.index(scoring),
                BIASED=bias_E is not None,
                EXPERTS=columns,
                BLOCK=block,
                WIDE=wide(logits_TE.dtype),
            )
    return score_TK, expert_TK


@forward.register_fake
def _(logits_TE: Tensor, k: int, scoring: str, bias_E: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = logits_TE.shape[0], k
    return logits_TE.new_empty(shape), logits_TE.new_empty(shape, dtype=torch.int64)


@torch.library.custom_op("grainline::triton_top_k_backward", mutates_args=())
def backward(d_score_TK: Tensor, logits_TE: Tensor, expert_TK: Tensor, scoring: str) -> Tensor:
    """d logits [T, E]."""
    from grainline.kernels.triton import router_kernel

    d_logits_TE = torch.zeros_like(logits_TE)
    (tokens, experts), k = logits_TE.shape, expert_TK.shape[1]
    columns, block = _block(experts)
    if tokens and k:
        with on(logits_TE):
            router_kernel.top_k_backward[(-(-tokens // block),)](
                d_score_TK,
                logits_TE,
                expert_TK,
                d_logits_TE,
                tokens,
                experts,
                k,
                SCORING=SCORINGS.index(scoring),
                EXPERTS=columns,
                BLOCK=block,
                WIDE=wide(logits_TE.dtype),
            )
    return d_logits_TE


@backward.register_fake
def _(d_score_TK: Tensor, logits_TE: Tensor, expert_TK: Tensor, scoring: str) -> Tensor:
    return torch.empty_like(logits_TE)


def _block(experts: int) -> tuple[int, int]:
    """(experts to the next power of two, tokens of one program)."""
    columns = 1 << max(0, experts - 1).bit_length()
    return columns, max(1, min(32, BLOCK_ELEMENTS // columns))
