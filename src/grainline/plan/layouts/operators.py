"""What a block asks of one rank under a strategy: products, other kernels and messages, forward and backward.

Message sizes are Megatron's: with tensor parallelism each of attention and FFN gathers its input along the sequence
and scatters its output (arXiv 2205.05198, section 4.2.2); experts get their tokens by an all-to-all and give them back
by another; context parallelism passes keys and values round its ring.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from grainline.plan.layouts.engine import Engine
from grainline.plan.layouts.shape import Shape
from grainline.plan.layouts.strategy import Strategy

Group = Literal["tensor", "context", "expert", "expert_tensor"]


@dataclass(frozen=True, slots=True)
class Op:
    """One kernel, or so many alike. `flops` and `bytes` are of all copies; rows × inner → rows × columns is each."""

    flops: float
    bytes: float
    rows: float = 0.0  # 0: no product
    columns: float = 0.0
    inner: float = 0.0
    copies: float = 1.0


@dataclass(frozen=True, slots=True)
class Message:
    """A collective that the rank waits for. `bytes` are of all that is gathered or reduced; of an exchange, one's."""

    group: Group
    kind: Literal["gather", "reduce", "exchange", "ring"]
    bytes: float


Work = tuple[tuple[Op, ...], tuple[Message, ...]]


@dataclass(frozen=True, slots=True)
class Part:
    """Attention, or an FFN, with the norm before it and the sum after it."""

    forward: Work
    backward: Work
    again: Work  # what recomputation of attention alone does once more
    kept: float  # bytes for the backward
    kept_light: float  # of them, where attention is recomputed


@dataclass(frozen=True, slots=True)
class Load:
    """How unevenly experts are chosen: rows of the busiest rank over the mean."""

    time: float = 1.0
    memory: float = 1.0


@dataclass(frozen=True)
class Setting:
    """What parts of a model have in common."""

    shape: Shape
    strategy: Strategy
    engine: Engine
    length: int  # of a sequence
    width: int = 2  # bytes of a value that is computed with
    load: Load = Load()

    @property
    def tokens(self) -> float:
        """Of a micro-batch, on the ranks of one tensor-parallel group."""
        return self.strategy.sequences * self.length / self.strategy.context

    @property
    def between(self) -> float:
        """Tokens that a rank has between matrices."""
        return self.strategy.sequences * self.length / self.strategy.splits_sequence


def product(rows: float, inner: float, columns: float, width: float, copies: float = 1.0) -> Op:
    """A matrix product, or so many alike."""
    moved = width * (rows * inner + inner * columns + rows * columns)
    return Op(2 * rows * inner * columns * copies, moved * copies, rows, columns, inner, copies)


def kernel(moved: float) -> Op:
    """Something that only moves bytes."""
    return Op(0.0, moved)


def back_of(op: Op) -> tuple[Op, Op]:
    """The gradients of a product's input and weights."""
    return (
        replace(op, columns=op.inner, inner=op.columns),
        replace(op, rows=op.inner, inner=op.rows, bytes=op.bytes + 4 * op.inner * op.columns * op.copies),
    )


def attention(s: Setting) -> Part:
    """Norm, products of q, k and v, attention itself, output product, sum."""
    shape, w, t = s.shape, s.width, s.strategy.tensor
    here, own, h = s.tokens, s.between, shape.hidden
    q, k, v, out = (n / t for n in (shape.query_width, shape.key_width, shape.value_width, shape.mixed_width))
    if shape.key_heads < t:  # every rank has at least a head of keys
        k, v = k * t / shape.key_heads, v * t / shape.key_heads
    matrices = shape.attention_matrices / t
    into = max(0.0, matrices - out * h) / h  # columns of the products before attention, low ranks included
    before, after = product(here, h, into, w), product(here, out, h, w)
    seen = s.length / 2 if not shape.window else min(shape.window, s.length / 2)
    flops = here * shape.score_flops * seen / t
    heads = shape.heads / t
    masks = own * h * shape.dropout
    if s.engine.flash_attention:
        mixing = Op(flops, w * here * (q + k + v + out), here, seen, shape.query_width / shape.heads, heads)
        mixing_back = Op(2.5 * flops, 2 * w * here * (q + k + v + out), here, seen, mixing.inner, heads)
        score_bytes = 4 * here * heads
        scored: tuple[Op, ...] = (mixing,)
        scored_back: tuple[Op, ...] = (mixing_back,)
    else:  # all of the square, masked; scores written, made to sum to one, dropped
        square = heads * here * s.length / s.strategy.context
        inner = shape.query_width / shape.heads
        rows = s.length / s.strategy.context
        many = heads * here / rows
        scores = product(rows, inner, s.length, w, many)
        values = product(rows, s.length, shape.mixed_width / shape.heads, w, many)
        soft = kernel(2 * w * square), kernel((2 * w + 1) * square)
        scored = (scores, *soft, values)
        scored_back = (
            *(replace(op, flops=2 * op.flops, bytes=2 * op.bytes) for op in (scores, values)),
            kernel(3 * w * square),
            kernel((2 * w + 1) * square),
        )
        score_bytes = (2 * w + shape.dropout) * square
    norm, joined = kernel(2 * w * own * h), kernel(3 * w * own * h + masks)
    wide = w * own * h if s.strategy.sequence_parallel else w * here * h
    kept_here = w * here * (q + k + v + out)
    kept = 2 * wide + masks + kept_here + score_bytes
    light = 2 * wide + masks + w * here * (q + k + v)
    light += w * here * out
    messages = tuple(_gathers(s, h))
    ring = (Message("context", "ring", 2 * w * here * (k + v)),) if s.strategy.context > 1 else ()
    return Part(
        ((norm, before, *scored, after, joined), messages + ring),
        (
            (kernel(3 * w * own * h), *back_of(before), *scored_back, *back_of(after), kernel(2 * w * own * h + masks)),
            messages + _again_gather(s, h) + ring + ring,
        ),
        (scored, ring),
        kept,
        light if not s.engine.flash_attention else kept,
    )


def dense(s: Setting) -> Part:
    """Norm, FFN, sum."""
    return _ffn(s, s.shape.ffn_hidden)


def _ffn(s: Setting, hidden: float) -> Part:
    shape, w, t = s.shape, s.width, s.strategy.tensor
    here, own, h, f = s.tokens, s.between, shape.hidden, hidden / t
    up = product(here, h, f * (2 if shape.gated else 1), w)
    down = product(here, f, h, w)
    act = kernel(w * here * f * (3 if shape.gated else 2))
    masks = own * h * shape.dropout
    norm, joined = kernel(2 * w * own * h), kernel(3 * w * own * h + masks)
    wide = w * own * h if s.strategy.sequence_parallel else w * here * h
    kept = 2 * wide + masks + w * here * f * (3 if shape.gated else 2)
    messages = tuple(_gathers(s, h))
    return Part(
        ((norm, up, act, down, joined), messages),
        (
            (kernel(3 * w * own * h), *back_of(up), kernel(1.7 * act.bytes), *back_of(down), kernel(2 * w * own * h)),
            messages + _again_gather(s, h),
        ),
        ((), ()),
        kept,
        kept,
    )


def sparse(s: Setting) -> Part:
    """Norm, router, all-to-all, experts, all-to-all, shared experts, sum.

    Tokens are spread over all ranks of the row before the all-to-all, and a rank gets those of its experts.
    """
    shape, w, st = s.shape, s.width, s.strategy
    e = shape.experts
    assert e is not None
    own, h = s.between, shape.hidden
    wide = e.latent or h
    rows = own * st.expert_tensor * e.top_k * s.load.time  # of a rank's experts, after an even exchange
    held = rows / s.load.time * s.load.memory
    mine, f = e.experts / st.expert, e.hidden / st.expert_tensor
    router = product(own, h, e.choices, 4)
    each = rows / mine
    up, down = product(each, wide, 2 * f, w, mine), product(each, f, wide, w, mine)
    act = kernel(3 * w * rows * f)
    moved = kernel(w * own * e.top_k * wide * 4 + w * rows * wide * 4)
    narrow = (product(own, h, e.latent, w), product(own, e.latent, h, w)) if e.latent else ()
    ops: tuple[Op, ...] = (kernel(2 * w * own * h), router, kernel(16 * own * e.choices), *narrow, moved, up, act, down)
    ops += (kernel(3 * w * own * h),)
    back: tuple[Op, ...] = tuple(g for op in (router, *narrow, up, down) for g in back_of(op))
    back += (kernel(5 * w * own * h), kernel(1.5 * moved.bytes), kernel(1.7 * act.bytes))
    sent = Message("expert", "exchange", w * own * e.top_k * wide)
    messages: tuple[Message, ...] = (sent, sent) if st.expert > 1 else ()
    if st.expert_tensor > 1:
        messages += (Message("expert_tensor", "gather", w * rows * wide),) * 2
    kept = w * own * h * 2 + 4 * own * e.choices * 2 + w * held * (wide + 3 * f) + w * own * e.top_k * wide
    if e.shared_hidden:
        shared = _ffn(replace(s, shape=replace(shape, dropout=False)), e.shared_hidden)
        ops += shared.forward[0][1:-1]
        back += shared.backward[0][1:-1]
        messages += shared.forward[1]
        kept += shared.kept - 2 * w * own * h
    return Part((ops, messages), (back, messages), ((), ()), kept, kept)


def head(s: Setting) -> Part:
    """Last norm, output layer and loss; logits are split over the tensor-parallel ranks."""
    shape, w = s.shape, s.width
    here, own, v = s.tokens, s.between, shape.vocabulary / s.strategy.tensor
    logits = product(here, shape.hidden, v, w)
    loss, norm = kernel((w + 4 * 3) * here * v), kernel(2 * w * own * shape.hidden)
    messages = tuple(_gathers(s, shape.hidden))[:1]
    back = (*back_of(logits), kernel(6 * here * v), kernel(3 * w * own * shape.hidden))
    kept = w * own * shape.hidden * 2 + 4 * here * v
    return Part(((norm, logits, loss), messages), (back, messages * 2), ((), ()), kept, kept)


def embedding(s: Setting) -> Part:
    """Rows of the table, summed over the ranks that split it."""
    shape, w = s.shape, s.width
    rows = kernel(3 * w * s.tokens * shape.hidden)
    messages = tuple(_gathers(s, shape.hidden))[:1]
    masks = s.between * shape.hidden * shape.dropout
    return Part(((rows,), messages), ((kernel(2 * rows.bytes),), messages), ((), ()), masks, masks)


def _gathers(s: Setting, size: float) -> Iterable[Message]:
    """Of one of a block's halves, forward: an all-gather and a reduce-scatter, or one all-reduce."""
    if s.strategy.tensor == 1:
        return
    count = s.width * s.tokens * size
    if s.strategy.sequence_parallel:
        yield Message("tensor", "gather", count)
        yield Message("tensor", "gather", count)
    else:
        yield Message("tensor", "reduce", count)


def _again_gather(s: Setting, size: float) -> tuple[Message, ...]:
    """Backward, where sequences are split: the input of the products is gathered once more for their weights."""
    wanted = s.strategy.tensor > 1 and s.strategy.sequence_parallel
    return (Message("tensor", "gather", s.width * s.tokens * size),) if wanted else ()
