"""Shape: the sizes of a model that its cost depends on, whatever family it is of."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from grainline.documents import ModelConfig


@dataclass(frozen=True)
class Experts:
    """The FFN of a sparse block. Sizes as in `documents.moe.Moe`."""

    experts: int
    top_k: float  # FFNs that a token visits, costless ones left out
    hidden: int
    shared_hidden: int = 0  # of all shared experts together
    latent: int = 0  # dims of a token on its way, 0: all
    router_hidden: int = 0
    choices: int = 0  # of the router: costless ones included
    constant: int = 0  # costless experts that add a mix of the token and a vector (MoE++): a product of three columns
    remembers: bool = False  # the router adds a matrix times the logits of the layer before


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer. Attention is told by widths, so that GQA, MLA and CCA are one thing to the cost."""

    layers: int
    hidden: int
    vocabulary: int
    heads: int
    query_width: int  # heads × dims of a query and key
    key_width: int
    value_width: int  # of v as products make it
    mixed_width: int  # heads × dims of a value: attention's output
    attention_matrices: int  # weights of the products around attention
    low: tuple[tuple[int, int], ...]  # (inner, columns) of those before it that each rank does for its own tokens …
    into: tuple[tuple[int, int], ...]  # … and of those whose columns are split over tensor-parallel ranks
    score_flops: float  # of a token per key that it sees, forward: 4 × heads × head_dim, for MLA less
    ffn_hidden: int
    gated: bool = True  # three matrices rather than two
    window: int = 0
    experts: Experts | None = None
    sparse_layers: frozenset[int] = frozenset()
    tied: bool = False
    mtp: int = 0
    dropout: bool = False  # masks are kept
    key_heads: int = 1  # no more tensor-parallel ranks than this have keys of their own
    biases: bool = False  # linear layers have them
    config: ModelConfig | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, config: ModelConfig) -> Shape:
        """Of any model config."""
        from grainline.models.count import attention_flops_per_token, attention_matrices

        a, moe = config.attention, config.moe
        if a.kind == "mla":
            assert a.kv_rank and a.rope_dim and a.value_dim
            query = key = a.heads * (a.head_dim + a.rope_dim)
            value = mixed = a.heads * a.value_dim
            first = ((config.hidden_size, a.q_rank),) if a.q_rank else ()
            low: tuple[tuple[int, int], ...] = (*first, (config.hidden_size, a.kv_rank + a.rope_dim))
            into: tuple[tuple[int, int], ...] = (
                (a.q_rank or config.hidden_size, query),
                (a.kv_rank, a.heads * (a.head_dim + a.value_dim)),
            )
        else:
            query = mixed = a.heads * a.head_dim
            key = value = a.key_value_heads * a.head_dim
            low, into = (), ((config.hidden_size, query + key + value),)
            if a.kind == "cca":  # each head's channels are convolved with one another
                into += ((a.head_dim * a.conv_kernels[1], a.conv_channels),)
        experts = None
        if moe is not None:
            experts = Experts(
                moe.pool,
                moe.top_k * moe.ffn_share,
                moe.expert_hidden,
                moe.shared_width,
                moe.latent or 0,
                moe.router_hidden or 0,
                moe.choices,
                moe.constant,
                moe.router == "gating-residual",
            )
        return cls(
            layers=config.layers,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
            heads=a.heads,
            query_width=query,
            key_width=key,
            value_width=value,
            mixed_width=mixed,
            attention_matrices=attention_matrices(config),
            low=low,
            into=into,
            score_flops=attention_flops_per_token(config.model_copy(update={"attention": _unwindowed(a)}), 1.0),
            ffn_hidden=config.ffn_hidden,
            window=a.window or 0,
            experts=experts,
            sparse_layers=frozenset(config.sparse_layers),
            tied=config.tie_embeddings,
            mtp=config.mtp_depth,
            key_heads=a.key_value_heads if a.kind != "mla" else a.heads,
            biases=a.bias,
            config=config,
        )

    @classmethod
    def gpt(cls, layers: int, hidden: int, heads: int, vocabulary: int, ffn_hidden: int | None = None) -> Shape:
        """GPT-2's: two matrices with a GELU between, biases, dropout, attention as wide as the model."""
        return cls(
            layers=layers,
            hidden=hidden,
            vocabulary=vocabulary,
            heads=heads,
            query_width=hidden,
            key_width=hidden,
            value_width=hidden,
            mixed_width=hidden,
            attention_matrices=4 * hidden * hidden,
            low=(),
            into=((hidden, 3 * hidden),),
            score_flops=4.0 * hidden,
            ffn_hidden=ffn_hidden or 4 * hidden,
            gated=False,
            tied=True,
            dropout=True,
            key_heads=heads,
            biases=True,
        )

    def is_sparse(self, layer: int) -> bool:
        """Whether this layer's FFN is a mixture of experts."""
        return layer in self.sparse_layers

    @cached_property
    def ffn_parameters(self) -> int:
        """Of a dense block's FFN."""
        return (3 if self.gated else 2) * self.hidden * self.ffn_hidden

    @cached_property
    def expert_parameters(self) -> int:
        """Of the routed experts of a block, all together."""
        e = self.experts
        return 0 if e is None else 3 * e.experts * (e.latent or self.hidden) * e.hidden

    @cached_property
    def beside_experts(self) -> int:
        """Of a sparse block's FFN what every rank that has the block holds: router, shared experts, a bottleneck."""
        e = self.experts
        if e is None:
            return 0
        router = (self.hidden + 2 * e.router_hidden + e.choices) * e.router_hidden if e.router_hidden else 0
        router = router or e.choices * (self.hidden + e.choices * e.remembers)
        return router + 3 * self.hidden * (e.shared_hidden + e.constant) + 2 * self.hidden * e.latent

    def seen(self, length: int) -> float:
        """Keys that a query sees on average, causally: half of the sequence, or the window once there are so many."""
        if not self.window or self.window >= length:
            return (length + 1) / 2
        return self.window - self.window * (self.window - 1) / (2 * length)

    @cached_property
    def table_parameters(self) -> int:
        """Of the embedding; the output layer has as many."""
        return self.vocabulary * self.hidden

    @cached_property
    def parameters(self) -> int:
        """Of the whole model, norms and biases left out."""
        sparse = sum(self.is_sparse(layer) for layer in range(self.layers))
        blocks = self.layers * self.attention_matrices + (self.layers - sparse) * self.ffn_parameters
        blocks += sparse * (self.expert_parameters + self.beside_experts)
        return blocks + self.table_parameters * (1 if self.tied else 2) + self.mtp_parameters

    @cached_property
    def mtp_parameters(self) -> int:
        """Of the blocks that predict further tokens, each with a projection of two streams to one."""
        sparse = bool(self.sparse_layers)
        block = self.attention_matrices + 2 * self.hidden * self.hidden
        block += self.expert_parameters + self.beside_experts if sparse else self.ffn_parameters
        return self.mtp * block


def _unwindowed(attention: object) -> object:
    assert hasattr(attention, "model_copy")
    return attention.model_copy(update={"window": None})
