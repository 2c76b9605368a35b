"""Attention's part of a block, of any kind: MHA, GQA, MLA, CCA, with a window or without; with flash kernels, or with
scores written to memory as programs did before them.
"""

from __future__ import annotations

from typing import NamedTuple

from grainline.plan.layouts.sending import backward, forward
from grainline.plan.layouts.work import Message, Op, Part, Setting, Work, kernel, product


class Widths(NamedTuple):
    """Of a rank's share of q, k, v and of the output."""

    query: float
    key: float
    value: float
    mixed: float

    @property
    def read(self) -> float:
        """Of what attention takes."""
        return self.query + self.key + self.value


class Mixing(NamedTuple):
    """Scores and weighted values: kernels, what is computed again where that is chosen, and bytes kept."""

    there: tuple[Op, ...]
    back: tuple[Op, ...]
    kept: float


def widths(s: Setting) -> Widths:
    """Split over tensor-parallel ranks; each has a head of keys at least."""
    shape, t = s.shape, s.strategy.tensor
    copies = max(1.0, t / shape.key_heads)
    return Widths(
        shape.query_width / t,
        shape.key_width / t * copies,
        shape.value_width / t * copies,
        shape.mixed_width / t,
    )


def attention(s: Setting) -> Part:
    """Norm, products of q, k and v, attention itself, output product, sum."""
    shape, w, st = s.shape, s.width, s.strategy
    here, own, h, own_w = s.tokens, s.between, shape.hidden, widths(s)
    mixing = flash(s, own_w) if s.engine.flash_attention else written(s, own_w)
    before = [s.linear(own, inner, columns) for inner, columns in shape.low]
    before += [s.linear(here, inner, columns) for inner, columns in _into(s, own_w)]
    after = s.linear(here, own_w.mixed, h)
    masks = own * h * shape.dropout
    cast = s.made_narrow(here * (h + own_w.mixed))
    norm, joined = kernel(2 * w * own * h), kernel(3 * w * own * h + masks)
    copied = (kernel(2 * w * here * own_w.mixed),) if not s.engine.flash_attention else ()
    turned = kernel(4 * w * here * (own_w.query + own_w.key)) if s.engine.flash_attention else None  # rotary embedding
    there = (norm, *cast, *before, *((turned,) if turned else ()), *mixing.there, *copied, after, joined)
    entering = [s.back(op) for op in before]
    after_back = s.back(after)
    back = (kernel(2 * w * own * h + masks), *cast, *after_back, *copied, *mixing.back)
    back += (turned,) if turned else (kernel(2 * w * here * own_w.read),)  # gradients of q, k, v put together
    back += tuple(op for ops in entering for op in ops)
    if shape.biases:
        back += (kernel(w * here * own_w.read), kernel(w * own * h))
    back += (kernel(5 * w * own * h), kernel(3 * w * own * h))  # the norm's two kernels; two gradients meet
    passed = w * here * (own_w.key + own_w.value)
    ring = (Message("context", "ring", passed, mixing.there[0]),) if st.context > 1 else ()
    ring_back = (Message("context", "ring", 2 * passed, mixing.back[0]),) if st.context > 1 else ()
    wide = own * h if st.sequence_parallel else here * h
    light = w * wide + s.operand * wide + masks + w * here * own_w.read + s.operand * here * own_w.mixed
    return Part(
        Work(there, forward(s, h) + ring),
        Work(back, backward(s, h, entering[-1][0], entering[-1][1]) + ring_back),
        light + mixing.kept,
        light if not s.engine.flash_attention else None,
        Work(mixing.there, ring),
    )


def _into(s: Setting, own: Widths) -> tuple[tuple[float, float], ...]:
    """(inner, columns) of a rank's products that make q, k and v; heads of keys that ranks share are made by each."""
    shape, t = s.shape, s.strategy.tensor
    if not shape.low and shape.into[0][1] == shape.query_width + shape.key_width + shape.value_width:
        return (shape.into[0][0], own.read), *((inner, columns / t) for inner, columns in shape.into[1:])
    return tuple((inner, columns / t) for inner, columns in shape.into)


def flash(s: Setting, own: Widths) -> Mixing:
    """One kernel that keeps a sum per row; its backward makes the scores once more (arXiv 2307.08691, section 3.1)."""
    shape, w = s.shape, s.width
    here, heads, seen = s.tokens, shape.heads / s.strategy.tensor, shape.seen(s.length)
    flops = here * shape.score_flops * seen / s.strategy.tensor
    inner, moved = shape.query_width / shape.heads, w * here * (own.read + own.mixed)
    there = Op(flops, moved, here, seen, inner, heads)
    back = Op(2 * flops, 2 * moved, here, seen, inner, heads, again=flops / 2)
    return Mixing((there,), (back,), 4 * here * heads)


def written(s: Setting, own: Widths) -> Mixing:
    """All of the square, masked; scores written, made to sum to one, dropped (arXiv 2205.05198, section 4.1)."""
    shape, w, st = s.shape, s.width, s.strategy
    here, heads = s.tokens, shape.heads / st.tensor
    rows, inner, values = s.length / st.context, shape.query_width / shape.heads, shape.mixed_width / shape.heads
    square, many = heads * here * s.length, heads * st.sequences
    scores, mixed = product(rows, inner, s.length, w, many), product(rows, s.length, values, w, many)
    drop = kernel((2 * w + 1) * square) if shape.dropout else None
    there = (scores, kernel(2 * w * square), *((drop,) if drop else ()), mixed)
    twice = (  # of each product the gradients of both sides
        product(rows, s.length, inner, w, many),
        product(s.length, rows, inner, w, many),
        product(rows, values, s.length, w, many),
        product(s.length, rows, values, w, many),
    )
    back = (*twice, kernel(3 * w * square), *((drop,) if drop else ()))
    return Mixing(there, back, (2 * w + shape.dropout) * square if shape.dropout else w * square)
