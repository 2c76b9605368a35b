"""Parameters and FLOPs of a model in closed form, from its config alone. No torch here: the planner uses it."""

from __future__ import annotations

from dataclasses import dataclass

from grainline.documents import ModelConfig


@dataclass(frozen=True)
class Parameters:
    """Parameter counts. `active`: what one token uses, the embedding table included; buffers are not counted.

    Where some experts are costless a token uses fewer of the others: so many on average, with loads as `tau` has them.
    MTP is extra, as the reports count it: it isn't part of `total` and `active`.
    """

    total: int
    active: int
    embedding: int
    head: int
    mtp: int


def attention_matrices(config: ModelConfig) -> int:
    """Weights of one layer's attention that take part in matrix products: two FLOPs each per token."""
    a, size = config.attention, config.hidden_size
    if a.kind == "mla":
        assert a.kv_rank and a.rope_dim and a.value_dim
        q_size = a.heads * (a.head_dim + a.rope_dim)
        q = (size + q_size) * a.q_rank if a.q_rank else size * q_size
        kv = size * (a.kv_rank + a.rope_dim) + a.kv_rank * a.heads * (a.head_dim + a.value_dim)
        return q + kv + a.heads * a.value_dim * size
    convolution = a.conv_channels * a.head_dim * a.conv_kernels[1] if a.kind == "cca" else 0
    return size * a.head_dim * 2 * (a.heads + a.key_value_heads) + convolution


def attention_parameters(config: ModelConfig) -> int:
    """Of one layer's attention: matrices, biases, kernels of single channels, and the gains of its norms."""
    a, size = config.attention, config.hidden_size
    if a.kind == "mla":
        assert a.kv_rank and a.rope_dim
        q_rank = a.q_rank or 0
        biases, gains = a.bias * (q_rank + a.kv_rank + a.rope_dim), q_rank + a.kv_rank
    else:
        biases, gains = a.bias * a.head_dim * (a.heads + 2 * a.key_value_heads), 2 * a.head_dim * a.qk_norm
        if a.kind == "cca":  # of each channel its kernel and two biases; a temperature for each head of keys
            gains += a.conv_channels * (a.conv_kernels[0] + 2) + a.key_value_heads
    return attention_matrices(config) + biases + a.output_bias * size + gains


def ffn_parameters(config: ModelConfig, layer: int) -> tuple[int, int]:
    """(total, active) of one layer's FFN, router included; of experts that layers share, its own number."""
    if not config.is_sparse(layer) or config.moe is None:
        dense = 3 * config.hidden_size * config.ffn_hidden
        return dense, dense
    moe, size, expert = config.moe, config.hidden_size, expert_parameters(config)
    always = 3 * size * moe.shared_width + router_parameters(config, layer)
    always += 3 * size * moe.constant + 2 * size * (moe.latent or 0)
    return always + moe.experts * expert, always + round(moe.top_k * moe.ffn_share * expert)


def expert_parameters(config: ModelConfig) -> int:
    """Of one routed expert."""
    assert config.moe is not None
    return 3 * (config.moe.latent or config.hidden_size) * config.moe.expert_hidden


def touched_experts(experts: int, top_k: int, tokens: float) -> float:
    """Different experts that so many tokens choose, on average, where each chooses evenly: E·(1 − (1 − K/E)^T)."""
    return experts * (1 - (1 - top_k / experts) ** tokens)


def router_parameters(config: ModelConfig, layer: int) -> int:
    """Of one layer's router."""
    moe = config.moe
    assert moe is not None
    if moe.router_hidden:
        R = moe.router_hidden
        return (config.hidden_size + 2 * R + moe.choices) * R + router_vectors(config, layer)
    residual = moe.choices**2 if moe.router == "gating-residual" and config.takes_carry(layer) else 0
    return moe.choices * config.hidden_size + residual


def router_vectors(config: ModelConfig, layer: int) -> int:
    """Of these, what takes part in no matrix product: biases and gains of a depth-averaged router."""
    assert config.moe is not None
    return (config.moe.router_hidden or 0) * (5 if config.takes_carry(layer) else 4)


def scaling_parameters(config: ModelConfig) -> int:
    """Of one block's residual scaling: four vectors for attention, four for the FFN; the embedding has two."""
    return 8 * config.hidden_size * config.residual_scaling


def parameters(config: ModelConfig) -> Parameters:
    """Counts of the whole model."""
    size = config.hidden_size
    embedding = config.vocab_size * size
    head = 0 if config.tie_embeddings else embedding
    per_block = attention_parameters(config) + 2 * size + scaling_parameters(config)
    total = active = embedding + head + size + scaling_parameters(config) // 4
    for layer in range(config.layers):
        all_of_it, used = ffn_parameters(config, layer)
        total += per_block + all_of_it
        active += per_block + used
    mtp = 0
    if config.mtp_depth:
        mtp = per_block + ffn_parameters(config, config.layers)[0] + 2 * size * size + 3 * size
    return Parameters(total, active, embedding, head, mtp)


def kept_by_experts(tokens: float, entries: float, size: int, hidden: int, width: int) -> float:
    """Bytes that op `expert_mixture` keeps for its backward: x, gate and up before the nonlinearity, units and scores.

    At equal entries · hidden it is the same for few wide experts and for many narrow ones (SonicMoE, arXiv 2512.14080).
    `width` is that of a computed value in bytes; ids of units have 8, scores 4.
    """
    return width * (tokens * size + entries * 2 * hidden) + entries * (8 + 4)


def attention_flops_per_token(config: ModelConfig, context: float) -> float:
    """Of scores and weighted values in one layer, forward, for a query that sees `context` keys on average."""
    a = config.attention
    if a.window:
        context = min(context, a.window)
    if a.kind == "mla":
        assert a.rope_dim and a.value_dim
        return 2 * a.heads * (a.head_dim + a.rope_dim + a.value_dim) * context
    return 4 * a.heads * a.head_dim * context


def flops_per_token(config: ModelConfig, sequence_length: int, *, backward: bool = True, mtp: float = 1.0) -> float:
    """Matrix-product FLOPs of one token, causal attention counted as it is done (half of the square).

    Forward and backward is three times forward. `mtp` is the share of tokens that MTP's block, projection and second
    pass through the head see, where the model has it: 0 outside training. The embedding look-up costs nothing.
    """
    size, context = config.hidden_size, (sequence_length + 1) / 2
    mean_attention = attention_flops_per_token(config, context)

    def block(layer: int) -> float:
        vectors = router_vectors(config, layer) if config.is_sparse(layer) else 0
        return 2 * (attention_matrices(config) + ffn_parameters(config, layer)[1] - vectors) + mean_attention

    head = 2 * config.vocab_size * size
    forward = sum(block(layer) for layer in range(config.layers)) + head
    if config.mtp_depth:
        forward += mtp * (block(config.layers) + 4 * size * size + head)
    return forward * (3 if backward else 1)


WIDTH = {"float64": 8.0, "float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "float8": 1.0, "int8": 1.0, "int4": 0.5}
"""Bytes of one value."""


def weight_bytes(config: ModelConfig, dtype: str = "bfloat16") -> int:
    """Of all weights, MTP's included, each in `dtype`; scales of quantised formats and router biases left out."""
    count = parameters(config)
    return int((count.total + count.mtp) * WIDTH[dtype])


def state_bytes_per_sequence(config: ModelConfig, dtype: str = "bfloat16") -> int:
    """Of all layers, what generation keeps of a sequence however long: CCA's last rows of q and k before they are
    convolved, and its last delayed values.
    """
    a = config.attention
    values = a.conv_reach * a.conv_channels + a.key_value_heads * a.head_dim // 2 if a.kind == "cca" else 0
    return int(config.layers * values * WIDTH[dtype])


def kv_cache_bytes_per_token(config: ModelConfig, dtype: str = "bfloat16") -> int:
    """Of all layers, for one position of one sequence: keys and values, or MLA's latent and its one rotated key."""
    a = config.attention
    if a.kind == "mla":
        assert a.kv_rank and a.rope_dim
        values = a.kv_rank + a.rope_dim
    else:
        values = 2 * a.key_value_heads * a.head_dim
    return int(config.layers * values * WIDTH[dtype])
