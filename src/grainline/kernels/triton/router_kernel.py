"""Scores and the best K of them in one pass over the logits; imported only where triton is there."""

import triton
import triton.language as tl

NONE, SOFTMAX, SIGMOID = (tl.constexpr(i) for i in range(3))  # as in router.SCORINGS


@triton.jit
def scores_of(logits, row, expert, inside, experts, SCORING: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scores of a block of tokens; 0 or less where there is no expert."""
    x = tl.load(logits + row.to(tl.int64)[:, None] * experts + expert[None, :], mask=inside, other=-float("inf"))
    x = x.to(WIDE)
    if SCORING == SOFTMAX:
        x = tl.exp(x - tl.max(x, 1)[:, None])
        x = x / tl.sum(x, 1)[:, None]
    elif SCORING == SIGMOID:
        x = 1 / (1 + tl.exp(-x))
    return x


@triton.jit
def top_k(  # type: ignore[no-untyped-def]
    logits, bias, score_out, expert_out, tokens, experts, k,
    SCORING: tl.constexpr, BIASED: tl.constexpr,
    EXPERTS: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The k largest of score + bias of each token, largest first and of equal ones the lower id; NaN is largest."""
    row, expert = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, EXPERTS)
    real = row < tokens
    inside = real[:, None] & (expert < experts)[None, :]
    score = scores_of(logits, row, expert, inside, experts, SCORING, WIDE)
    key = score
    if BIASED:
        key = key + tl.load(bias + expert, mask=expert < experts, other=0.0).to(WIDE)[None, :]
    key = tl.where(key == key, key, float("inf"))
    open = (tl.zeros((BLOCK, 1), tl.int32) + expert[None, :]) < experts
    for slot in range(k):
        best = tl.max(tl.where(open, key, -float("inf")), 1)
        mine = tl.min(tl.where(open & (key == best[:, None]), expert[None, :], EXPERTS), 1)
        chosen = expert[None, :] == mine[:, None]
        value = tl.sum(tl.where(chosen, score, 0.0), 1)
        at = row.to(tl.int64) * k + slot
        tl.store(score_out + at, value.to(score_out.dtype.element_ty), mask=real)
        tl.store(expert_out + at, mine.to(tl.int64), mask=real)
        open = open & (expert[None, :] != mine[:, None])


@triton.jit
def top_k_backward(  # type: ignore[no-untyped-def]
    d_score, logits, chosen, d_logits, tokens, experts, k,
    SCORING: tl.constexpr, EXPERTS: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """d logits of the chosen scores' gradients; scores are computed again."""
    row, expert = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, EXPERTS)
    real = row < tokens
    inside = real[:, None] & (expert < experts)[None, :]
    d = tl.zeros((BLOCK, EXPERTS), WIDE)
    for slot in range(k):
        at = row.to(tl.int64) * k + slot
        mine = tl.load(chosen + at, mask=real, other=-1)
        value = tl.load(d_score + at, mask=real, other=0.0).to(WIDE)
        d = tl.where(expert[None, :] == mine[:, None], value[:, None], d)
    if SCORING != NONE:
        score = scores_of(logits, row, expert, inside, experts, SCORING, WIDE)
        if SCORING == SOFTMAX:
            d = score * (d - tl.sum(score * d, 1)[:, None])
        else:
            d = d * score * (1 - score)
    d_at = d_logits + row.to(tl.int64)[:, None] * experts + expert[None, :]
    tl.store(d_at, d.to(d_logits.dtype.element_ty), mask=inside)


@triton.jit
def round_balanced(counts, out, experts, tile, tokens):  # type: ignore[no-untyped-def]
    """Counts as multiples of `tile`, one after another: each makes up for what those before it added or dropped."""
    carried = 0
    for expert in range(experts):
        count = tl.load(counts + expert).to(tl.int32)
        down = count // tile * tile
        rest = down - count + carried
        up = (down < count) & (down + tile <= tokens) & (tl.abs(rest + tile) < tl.abs(rest))
        rounded = down + tl.where(up, tile, 0)
        carried += rounded - count
        tl.store(out + expert, rounded.to(tl.int64))
