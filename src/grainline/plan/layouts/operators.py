"""What a block asks of one rank under a strategy: products, other kernels and messages, forward and backward.

Message sizes are Megatron's: with tensor parallelism each of attention and FFN gathers its input along the sequence
and scatters its output (arXiv 2205.05198, section 4.2.2); experts get their tokens by an all-to-all and give them back
by another; context parallelism passes keys and values round its ring. What is kept is that paper's section 4.1.
"""

from __future__ import annotations

from dataclasses import replace

from grainline.plan.layouts.attention import attention
from grainline.plan.layouts.sending import backward, forward
from grainline.plan.layouts.work import Message, Op, Part, Setting, Work, kernel, product

__all__ = ["attention", "dense", "embedding", "head", "merge", "sparse"]


def dense(s: Setting) -> Part:
    """Norm, FFN, sum."""
    return _ffn(s, s.shape.ffn_hidden)


def _ffn(s: Setting, hidden: float) -> Part:
    shape, w = s.shape, s.width
    here, own, h, f = s.tokens, s.between, shape.hidden, hidden / s.strategy.tensor
    arms = 2 if shape.gated else 1
    up, down = s.linear(here, h, f * arms), s.linear(here, f, h)
    masks = own * h * shape.dropout
    acted, cast = kernel(w * here * f * (arms + 1)), s.made_narrow(here * (h + f))
    norm, joined = kernel(2 * w * own * h), kernel(3 * w * own * h + masks)
    biases = (kernel(w * here * f * arms), kernel(w * own * h)) if shape.biases else ()
    up_back, down_back = s.back(up), s.back(down)
    # The norm's backward makes its gains' gradients in a second kernel; two gradients meet at the sum.
    back = (kernel(2 * w * own * h + masks), *cast, *down_back, kernel(w * here * f * (2 * arms + 1)), *up_back)
    back += (*biases, kernel(5 * w * own * h), kernel(3 * w * own * h))
    wide = own * h if s.strategy.sequence_parallel else here * h
    # The norm's input; the FFN's input; up and gate, and what is made of them.
    kept = w * wide + s.operand * wide + masks + here * f * (w * arms + s.operand)
    return Part(
        Work((norm, *cast, up, acted, down, joined), forward(s, h)),
        Work(back, backward(s, h, up_back[0], up_back[1])),
        kept,
    )


def sparse(s: Setting) -> Part:
    """Norm, router, all-to-all, experts, all-to-all, shared experts, sum.

    Tokens are spread over all ranks of the row before the all-to-all, and a rank gets those of its experts.
    """
    shape, w, st = s.shape, s.width, s.strategy
    e = shape.experts
    assert e is not None
    own, h, busy = s.between, shape.hidden, s.load.time
    wide, sent_rows = e.latent or h, own * e.top_k
    rows = sent_rows * st.expert_tensor  # of a rank's experts, after an even exchange
    held = rows * s.load.memory
    mine, f = e.experts / st.expert, e.hidden / st.expert_tensor
    up = replace(s.linear(rows / mine, wide, 2 * f, mine), heaviest=busy)
    down = replace(s.linear(rows / mine, f, wide, mine), heaviest=busy)
    acted = kernel(3 * w * rows * f * busy)
    routers = _router(own, h, e.router_hidden, e.choices, remembers=e.remembers)
    chosen = kernel(16 * own * e.choices)
    narrow = (s.linear(own, h, e.latent), s.linear(own, e.latent, h)) if e.latent else ()
    constant = (product(own, h, 3 * e.constant, w),) if e.constant else ()
    # Rows are put in order and back, on this side of the exchange and on that.
    moved = kernel(w * (4 * sent_rows + 4 * rows * busy) * wide)
    cast = s.made_narrow(rows * busy * (wide + f))
    norm, joined = kernel(2 * w * own * h), kernel(3 * w * own * h)
    ops: tuple[Op, ...] = (norm, *routers, chosen, *narrow, *constant, moved, *cast, up, acted, down, joined)
    back: tuple[Op, ...] = tuple(g for op in (*narrow, up, down) for g in s.back(op))
    back += tuple(g for op in (*routers, *constant) for g in (op, op))
    back += (kernel(5 * w * own * h), kernel(3 * w * own * h), kernel(1.5 * moved.bytes), kernel(1.7 * acted.bytes))
    back += (kernel(2 * chosen.bytes), *cast)
    # The router is replicated and the norm before it split, as Megatron has it: neither sends. Each rank has its own
    # tokens, so the block's halves gather nothing; the busiest rank's rows make the exchange.
    messages: tuple[Message, ...] = ()
    kept = w * own * h * 2 + 4 * own * e.choices * 2 + held * (s.operand * wide + (2 * w + s.operand) * f)
    kept += w * sent_rows * wide
    shared: Part | None = None
    if e.shared_hidden:
        plain = replace(s, shape=replace(shape, dropout=False, gated=True, biases=False, config=None))
        shared = _ffn(plain, e.shared_hidden)
        kept += shared.kept - (w + s.operand) * own * h
    meanwhile = shared.forward.ops[1] if shared and s.engine.overlaps_experts else None
    if st.expert > 1:
        messages += (Message("expert", "exchange", w * sent_rows * wide * busy, meanwhile),) * 2
    if st.expert_tensor > 1:
        messages += (Message("expert_tensor", "gather", w * rows * wide * busy),) * 2
    there, returned = Work(ops, messages), Work(back, messages)
    if shared is not None:
        there = merge(there, Work(shared.forward.ops[1:-1], shared.forward.messages))
        returned = merge(returned, Work(shared.backward.ops[1:-2], shared.backward.messages))
    return Part(there, returned, kept)


def _router(own: float, h: float, hidden: float, choices: float, *, remembers: bool) -> tuple[Op, ...]:
    """Of all experts' scores, in float32; with a stream of its own, three products (ZAYA1)."""
    if hidden:
        sides = ((h, hidden), (hidden, hidden), (hidden, hidden), (hidden, choices))
        return tuple(product(own, inner, columns, 4) for inner, columns in sides)
    own_memory = (product(own, choices, choices, 4),) if remembers else ()
    return (product(own, h, choices, 4), *own_memory)


def head(s: Setting) -> Part:
    """Last norm, output layer and loss; logits are split over the tensor-parallel ranks."""
    shape, w = s.shape, s.width
    here, own, v = s.tokens, s.between, shape.vocabulary / s.strategy.tensor
    plain = replace(s, narrow=False)
    logits = plain.linear(here, shape.hidden, v)
    # Made float32 (2 + 4), the largest found (4) and taken off (8), exponents (8), their sum (4), its division (8).
    loss, norm = kernel((w + 4 + 4 + 8 + 8 + 4 + 8) * here * v), kernel(2 * w * own * shape.hidden)
    back = plain.back(logits)
    # The label's one taken off, times the gradient (8), made narrow again.
    backs = (kernel((8 + 4 + w) * here * v), *back, kernel(5 * w * own * shape.hidden))
    kept = w * own * shape.hidden * 2 + 4 * here * v
    return Part(
        Work((norm, logits, loss), forward(s, shape.hidden)[:1]),
        Work(backs, backward(s, shape.hidden, back[0], back[1])[-2:]),
        kept,
    )


def embedding(s: Setting) -> Part:
    """Rows of the table, summed over the ranks that split it."""
    shape, w = s.shape, s.width
    rows = kernel(3 * w * s.tokens * shape.hidden)
    messages = forward(s, shape.hidden)[-1:]
    masks = s.between * shape.hidden * shape.dropout
    return Part(Work((rows,), messages), Work((kernel(2 * rows.bytes),), messages[:1]), masks)


def projection(s: Setting) -> Part:
    """What MTP has before its block: the stream and the next token's embedding normed, put side by side, projected."""
    w, own, h = s.width, s.between, s.shape.hidden
    join, norms = s.linear(own, 2 * h, h), kernel(6 * w * own * h)
    return Part(Work((norms, join)), Work((*s.back(join), kernel(12 * w * own * h))), w * own * h * 5)


def merge(first: Work, second: Work) -> Work:
    """One after the other."""
    return Work(first.ops + second.ops, first.messages + second.messages)
