"""Which tensors of a Hugging Face folder make up which of ours, said once for both directions.

A family gives its `Names`; `tensor_map` turns them and a ModelConfig into the full list. A tensor of ours is whole
(`pieces` has one entry, `at` is empty), or stacked of several of theirs (experts, gate and up), or some rows of one of
theirs (q, k and v of a fused projection).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from grainline.documents import ModelConfig

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """One tensor of the folder, or some rows of it, and where it lies in ours: the same values in order, whatever the
    dims.
    """

    source: str
    source_shape: Shape
    rows: tuple[int, int] | None = None
    at: Shape = ()


@dataclass(frozen=True)
class Entry:
    """One tensor of ours and what it is made of."""

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]
    float32: bool = False  # kept in float32 whatever the model's dtype: a selection bias moves in steps of 1e-3


@dataclass(frozen=True)
class Copy:
    """A tensor of the folder that must equal another one of it: what the model shares, stored again."""

    source: str
    of: str
    written: bool  # whether saving writes it too, for engines that look for it


@dataclass(frozen=True)
class TensorMap:
    """All tensors of one model."""

    entries: tuple[Entry, ...]
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True)
class Names:
    """A family's tensor names. Those of a layer follow its prefix `layer`; `{i}` is the layer, `{j}` the expert."""

    embedding: str = "model.embed_tokens.weight"
    norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    layer: str = "model.layers.{i}."
    attention_norm: str = "input_layernorm.weight"
    ffn_norm: str = "post_attention_layernorm.weight"
    attention: str = "self_attn."
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    qkv: str | None = None  # q, k and v are one projection of this name
    o: str = "o_proj"
    q_norm: str = "q_norm"
    k_norm: str = "k_norm"
    ffn: str = "mlp."
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    moe: str = "mlp."
    router: str = "gate.weight"
    router_bias: str = ""
    experts: str = "experts.{j}."
    expert_gate: str = "gate_proj"
    expert_up: str = "up_proj"
    expert_down: str = "down_proj"
    shared: str = "shared_experts."
    fused_experts: tuple[str, str] | None = None  # one tensor for all gates and ups, and one for all downs
    mtp_norm: str = ""
    mtp_copies: tuple[str, str] | None = None  # the MTP layer's copies of the embedding and the head


def tensor_map(config: ModelConfig, names: Names) -> TensorMap:
    """Every tensor of a model of this config, in the order of the layers."""
    D, V = config.hidden_size, config.vocab_size
    entries = [_whole("embedding.weight", names.embedding, (V, D))]
    if config.residual_scaling:
        entries += _vectors(
            "embedding_scaling.", "model.input_hidden_states_", {"scale_D": "scale", "bias_D": "bias"}, D
        )
    for i in range(config.layers):
        entries += _block(config, names, i, f"blocks.{i}.")
    entries.append(_whole("norm.weight", names.norm, (D,)))
    copies = []
    if config.tie_embeddings:
        copies.append(Copy(names.head, of=names.embedding, written=False))
    else:
        entries.append(_whole("head.weight", names.head, (V, D)))
    if config.mtp_depth:
        layer = names.layer.format(i=config.layers)
        entries += [
            _whole("mtp.embedding_norm.weight", f"{layer}enorm.weight", (D,)),
            _whole("mtp.hidden_norm.weight", f"{layer}hnorm.weight", (D,)),
            _whole("mtp.projection.weight", f"{layer}eh_proj.weight", (D, 2 * D)),
            _whole("mtp.norm.weight", layer + names.mtp_norm, (D,)),
            *_block(config, names, config.layers, "mtp.block."),
        ]
        if names.mtp_copies:
            embedding, head = names.mtp_copies
            head_of = names.embedding if config.tie_embeddings else names.head
            copies += [Copy(layer + embedding, names.embedding, True), Copy(layer + head, head_of, True)]
    return TensorMap(tuple(entries), tuple(copies))


def _block(config: ModelConfig, names: Names, i: int, ours: str) -> Iterator[Entry]:
    D = config.hidden_size
    layer = names.layer.format(i=i)
    yield _whole(f"{ours}attention_norm.weight", layer + names.attention_norm, (D,))
    yield from _ATTENTIONS[config.attention.kind](config, names, f"{ours}attention.", layer + names.attention)
    yield _whole(f"{ours}ffn_norm.weight", layer + names.ffn_norm, (D,))
    if config.residual_scaling:
        for part, theirs in (("attention", "attention"), ("ffn", "mlp")):
            yield from _vectors(f"{ours}{part}_scaling.", f"{layer}post_{theirs}_residual_scale.", _SCALING, D)
    if config.is_sparse(i):
        yield from _moe(config, names, i, f"{ours}ffn.", layer + names.moe)
    else:
        prefix = layer + names.ffn
        yield from _swiglu(
            f"{ours}ffn.", prefix + names.gate, prefix + names.up, prefix + names.down, D, config.ffn_hidden
        )


def _gqa(config: ModelConfig, names: Names, ours: str, theirs: str) -> Iterator[Entry]:
    D, a = config.hidden_size, config.attention
    q_rows, kv_rows = a.heads * a.head_dim, a.key_value_heads * a.head_dim
    edges = (0, q_rows, q_rows + kv_rows, q_rows + 2 * kv_rows)
    for part, name, first, last in zip("qkv", (names.q, names.k, names.v), edges, edges[1:], strict=False):
        for kind in ("weight", "bias") if a.bias else ("weight",):
            tail = (D,) if kind == "weight" else ()
            if names.qkv:
                piece = Piece(f"{theirs}{names.qkv}.{kind}", (edges[-1], *tail), (first, last))
            else:
                piece = Piece(f"{theirs}{name}.{kind}", (last - first, *tail))
            yield Entry(f"{ours}{part}.{kind}", (last - first, *tail), (piece,))
    yield from _linear(f"{ours}o", f"{theirs}{names.o}", (D, q_rows), a.output_bias)
    if a.qk_norm:
        yield _whole(f"{ours}q_norm.weight", f"{theirs}{names.q_norm}.weight", (a.head_dim,))
        yield _whole(f"{ours}k_norm.weight", f"{theirs}{names.k_norm}.weight", (a.head_dim,))


def _mla(config: ModelConfig, names: Names, ours: str, theirs: str) -> Iterator[Entry]:
    D, a = config.hidden_size, config.attention
    assert a.kv_rank and a.rope_dim and a.value_dim, "Attention checks this for kind 'mla'"
    q_rows = a.heads * (a.head_dim + a.rope_dim)
    if a.q_rank:
        yield from _linear(f"{ours}q_down", f"{theirs}q_a_proj", (a.q_rank, D), a.bias)
        yield _whole(f"{ours}q_down_norm.weight", f"{theirs}q_a_layernorm.weight", (a.q_rank,))
        yield _whole(f"{ours}q_up.weight", f"{theirs}q_b_proj.weight", (q_rows, a.q_rank))
    else:
        yield _whole(f"{ours}q.weight", f"{theirs}q_proj.weight", (q_rows, D))
    yield from _linear(f"{ours}kv_down", f"{theirs}kv_a_proj_with_mqa", (a.kv_rank + a.rope_dim, D), a.bias)
    yield _whole(f"{ours}kv_down_norm.weight", f"{theirs}kv_a_layernorm.weight", (a.kv_rank,))
    kv_rows = a.heads * (a.head_dim + a.value_dim)
    yield _whole(f"{ours}kv_up.weight", f"{theirs}kv_b_proj.weight", (kv_rows, a.kv_rank))
    yield from _linear(f"{ours}o", f"{theirs}{names.o}", (D, a.heads * a.value_dim), a.output_bias)


def _cca(config: ModelConfig, names: Names, ours: str, theirs: str) -> Iterator[Entry]:
    D, a = config.hidden_size, config.attention
    projection, channels = f"{theirs}qkv_proj.", a.conv_channels
    q_rows, kv_rows, (of_channel, of_head) = a.heads * a.head_dim, a.key_value_heads * a.head_dim, a.conv_kernels
    rows: tuple[tuple[str, str, int], ...] = (("q", "q_proj", q_rows), ("k", "k_proj", kv_rows))
    rows += (("v", "v_proj_current", kv_rows // 2), ("v_before", "v_proj_delayed", kv_rows // 2))
    for part, name, size in rows:
        yield from _linear(f"{ours}{part}", projection + name, (size, D), a.bias)
    depthwise, grouped = f"{projection}conv_qk_depthwise.", f"{projection}conv_qk_grouped."
    piece = Piece(f"{depthwise}weight", (channels, 1, of_channel))
    yield Entry(f"{ours}depthwise_CK", (channels, of_channel), (piece,))
    yield _whole(f"{ours}depthwise_bias_C", f"{depthwise}bias", (channels,))
    piece = Piece(f"{grouped}weight", (channels, a.head_dim, of_head))
    shape = (channels // a.head_dim, a.head_dim, a.head_dim * of_head)
    yield Entry(f"{ours}grouped_Ahx", shape, (piece,))
    yield _whole(f"{ours}grouped_bias_C", f"{grouped}bias", (channels,))
    yield _whole(f"{ours}temperature_G", f"{theirs}qk_norm.temp", (a.key_value_heads,))
    yield from _linear(f"{ours}o", f"{theirs}{names.o}", (D, q_rows), a.output_bias)


_ATTENTIONS = {"gqa": _gqa, "mla": _mla, "cca": _cca}

_SCALING = {
    "added_scale_D": "hidden_states_scale",
    "added_bias_D": "hidden_states_bias",
    "stream_scale_D": "residual_scale",
    "stream_bias_D": "residual_bias",
}


def _vectors(ours: str, theirs: str, names: Mapping[str, str], size: int) -> Iterator[Entry]:
    for name, source in names.items():
        yield _whole(ours + name, theirs + source, (size,))


def _depth_averaged(config: ModelConfig, layer: int, ours: str, theirs: str) -> Iterator[Entry]:
    moe = config.moe
    assert moe is not None
    assert moe.router_hidden is not None
    R = moe.router_hidden
    yield from _linear(f"{ours}down", f"{theirs}down_proj", (R, config.hidden_size), True)
    if config.takes_carry(layer):
        yield _whole(f"{ours}gamma_R", f"{theirs}router_states_scale", (R,))
    yield _whole(f"{ours}norm.weight", f"{theirs}router_mlp.norm.weight", (R,))
    yield from _linear(f"{ours}first", f"{theirs}router_mlp.fc1", (R, R), True)
    yield from _linear(f"{ours}second", f"{theirs}router_mlp.fc2", (R, R), True)
    yield _whole(f"{ours}weight_ED", f"{theirs}router_mlp.out_proj.weight", (moe.choices, R))


def _moe(config: ModelConfig, names: Names, layer: int, ours: str, theirs: str) -> Iterator[Entry]:
    D, moe = config.hidden_size, config.moe
    assert moe is not None, "only sparse layers come here"
    E, F = moe.experts, moe.expert_hidden
    if moe.router == "depth-averaged":
        yield from _depth_averaged(config, layer, f"{ours}router.", theirs + names.router)
    else:
        yield _whole(f"{ours}router.weight_ED", theirs + names.router, (moe.choices, D))
    if moe.bias_balanced:
        yield _whole(f"{ours}router.bias_E", theirs + names.router_bias, (moe.choices,), float32=True)
    yield from _experts(names, f"{ours}experts.", theirs, E, F, D)
    if moe.shared_width:
        shared = theirs + names.shared
        gate, up, down = shared + names.gate, shared + names.up, shared + names.down
        yield from _swiglu(f"{ours}shared.", gate, up, down, D, moe.shared_width)


def _experts(names: Names, ours: str, theirs: str, E: int, F: int, D: int) -> Iterator[Entry]:
    if names.fused_experts:
        w13, w2 = names.fused_experts
        yield Entry(f"{ours}w13_E2FD", (E, 2, F, D), (Piece(theirs + w13, (E, 2 * F, D)),))
        yield _whole(f"{ours}w2_EDF", theirs + w2, (E, D, F))
        return
    expert = [theirs + names.experts.format(j=j) for j in range(E)]
    halves = (names.expert_gate, names.expert_up)
    pieces = [Piece(f"{expert[j]}{half}.weight", (F, D), at=(j, k)) for j in range(E) for k, half in enumerate(halves)]
    yield Entry(f"{ours}w13_E2FD", (E, 2, F, D), tuple(pieces))
    pieces = [Piece(f"{expert[j]}{names.expert_down}.weight", (D, F), at=(j,)) for j in range(E)]
    yield Entry(f"{ours}w2_EDF", (E, D, F), tuple(pieces))


def _swiglu(ours: str, gate: str, up: str, down: str, D: int, F: int) -> Iterator[Entry]:
    w13 = tuple(Piece(f"{half}.weight", (F, D), at=(k,)) for k, half in enumerate((gate, up)))
    yield Entry(f"{ours}w13_2FD", (2, F, D), w13)
    yield _whole(f"{ours}w2_DF", f"{down}.weight", (D, F))


def _linear(ours: str, theirs: str, shape: Shape, bias: bool) -> Iterator[Entry]:
    yield _whole(f"{ours}.weight", f"{theirs}.weight", shape)
    if bias:
        yield _whole(f"{ours}.bias", f"{theirs}.bias", shape[:1])


def _whole(name: str, source: str, shape: Shape, float32: bool = False) -> Entry:
    return Entry(name, shape, (Piece(source, shape),), float32)
