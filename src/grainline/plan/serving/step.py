"""The ops of one step of a model on a replica: prompts' new tokens and one token of each running sequence, together.

As engines with continuous batching and chunked prefill run it: all products see all tokens of the step, attention is of
two kinds. Tensor parallelism splits heads and hidden widths; two all-reduces a layer put them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from grainline.plan.serving import ops
from grainline.plan.serving.ops import VALUE, Op
from grainline.plan.serving.replica import Replica

Counted = tuple[Op, int]
"""An op and how many times a step has it."""


@dataclass(frozen=True)
class Chunk:
    """New tokens of a prompt, and how many of it are in the cache before them."""

    new: int
    past: int = 0


def dense_ops(replica: Replica, tokens: float, outputs: float) -> Iterator[Counted]:
    """All but attention over keys: what depends on the number of tokens alone. `outputs` of them pass the head."""
    c, g = replica.config, replica.ranks
    size, layers = c.hidden_size, c.layers
    w, dtype = replica.weights, replica.speed.compute_dtype(replica.weights)
    sparse = sum(c.is_sparse(layer) for layer in range(layers))
    for op in _projections(replica, tokens):
        yield op, layers
    yield ops.move(8 * tokens * size * VALUE), layers  # both norms with their sums: two read, two written
    if layers > sparse:
        hidden = c.ffn_hidden / g
        yield ops.product(tokens, 2 * hidden, size, dtype, w), layers - sparse
        yield ops.move(3 * tokens * hidden * VALUE), layers - sparse
        yield ops.product(tokens, size, hidden, dtype, w), layers - sparse
    if sparse and c.moe is not None:
        for op in _mixture(replica, tokens):
            yield op, sparse
    if g > 1:
        yield ops.collective("all-reduce", tokens * size * VALUE, g), 2 * layers
    table = "bfloat16" if replica.weights not in ("float32", "float16") else w
    yield ops.move(tokens * size * VALUE), 1
    yield ops.product(outputs, c.vocab_size / g, size, replica.speed.compute_dtype(table), table), 1


def _projections(replica: Replica, tokens: float) -> Iterator[Op]:
    a, size, g = replica.config.attention, replica.config.hidden_size, replica.ranks
    w, dtype = replica.weights, replica.speed.compute_dtype(replica.weights)
    heads = a.heads // g
    if a.kind == "mla":
        assert a.kv_rank and a.rope_dim and a.value_dim
        key = a.head_dim + a.rope_dim
        yield ops.product(tokens, (a.q_rank or heads * key) + a.kv_rank + a.rope_dim, size, dtype, w)
        if a.q_rank:
            yield ops.product(tokens, heads * key, a.q_rank, dtype, w)
        # Into the latent's space and out of it, head by head.
        yield ops.product(tokens, a.kv_rank, a.head_dim, dtype, w, copies=heads)
        yield ops.product(tokens, a.value_dim, a.kv_rank, dtype, w, copies=heads)
        yield ops.product(tokens, size, heads * a.value_dim, dtype, w)
        return
    kv = max(1, a.key_value_heads // g)
    yield ops.product(tokens, (heads + 2 * kv) * a.head_dim, size, dtype, w)
    if a.kind == "cca":
        of_channel, of_head = a.conv_kernels
        yield ops.move((2 + of_channel) * tokens * (heads + kv) * a.head_dim * VALUE)
        yield ops.product(tokens, a.head_dim, a.head_dim * of_head, dtype, w, copies=heads + kv)
    yield ops.move(2 * tokens * (heads + kv) * a.head_dim * VALUE)  # turned, and written to the cache
    yield ops.product(tokens, size, heads * a.head_dim, dtype, w)


def _mixture(replica: Replica, tokens: float) -> Iterator[Op]:
    """A router and its experts, each split over the ranks; bottleneck and costless ones as in `models.count`."""
    c, moe, g = replica.config, replica.config.moe, replica.ranks
    assert moe is not None
    w, dtype = replica.weights, replica.speed.compute_dtype(replica.weights)
    size = moe.latent or c.hidden_size
    router = moe.router_hidden or c.hidden_size
    yield ops.product(tokens, moe.choices, router, replica.speed.compute_dtype("bfloat16"), "bfloat16")
    if moe.router_hidden:
        yield ops.product(tokens, moe.router_hidden, c.hidden_size, replica.speed.compute_dtype("bfloat16"), "bfloat16")
    if moe.latent:
        yield ops.product(tokens, moe.latent, c.hidden_size, dtype, w)
        yield ops.product(tokens, c.hidden_size, moe.latent, dtype, w)
    seen = tokens * moe.ffn_share
    yield ops.experts(seen, size, moe.expert_hidden / g, moe.pool, moe.top_k, dtype, w)
    if moe.shared_experts:
        hidden = moe.shared_width / g
        yield ops.product(tokens, 2 * hidden, c.hidden_size, dtype, w)
        yield ops.move(3 * tokens * hidden * VALUE)
        yield ops.product(tokens, c.hidden_size, hidden, dtype, w)


def decode_op(replica: Replica, sequences: float, context: float) -> Op:
    """Of one layer: each sequence's new token attends to `context` cached ones, on average."""
    a, g = replica.config.attention, replica.ranks
    dtype = replica.speed.compute_dtype("bfloat16")
    if a.kind == "mla":
        assert a.kv_rank and a.rope_dim
        key = a.kv_rank + a.rope_dim
        return ops.decode(
            sequences, context, a.heads // g, 1, key, a.kv_rank, dtype, replica.cache, a.window, latent=True
        )
    kv = max(1, a.key_value_heads // g)
    return ops.decode(sequences, context, a.heads // g, kv, a.head_dim, a.head_dim, dtype, replica.cache, a.window)


def prefill_op(replica: Replica, chunk: Chunk) -> Op:
    """Of one layer: a chunk's tokens attend to themselves and to those before."""
    a, g = replica.config.attention, replica.ranks
    dtype = replica.speed.compute_dtype("bfloat16")
    if a.kind == "mla":
        assert a.rope_dim and a.value_dim
        heads, key = a.heads // g, a.head_dim + a.rope_dim
        return ops.prefill(1, chunk.new, chunk.past, heads, heads, key, a.value_dim, dtype, replica.cache, a.window)
    kv = max(1, a.key_value_heads // g)
    return ops.prefill(
        1, chunk.new, chunk.past, a.heads // g, kv, a.head_dim, a.head_dim, dtype, replica.cache, a.window
    )


def step_ops(replica: Replica, sequences: int, context: float, chunks: tuple[Chunk, ...] = ()) -> list[Counted]:
    """Everything in one step, to be read op by op; `times.Times` has its seconds, quickly."""
    tokens = sequences + sum(chunk.new for chunk in chunks)
    if not tokens:
        return []
    found = list(dense_ops(replica, tokens, sequences + len(chunks)))
    if sequences:
        found.append((decode_op(replica, sequences, context), replica.config.layers))
    found += [(prefill_op(replica, chunk), replica.config.layers) for chunk in chunks]
    return found
