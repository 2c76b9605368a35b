"""ModelConfig: what is computed. Sizes, attention, experts and their router, per layer where layers differ.

It names the architecture and nothing else: no data, no device, no rate. Every published model that grainline reads is
one value of this type, so the counts, the planner and the blocks need to know only these words.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from grainline.documents.base import Document, Part
from grainline.documents.moe import Moe


class Rope(Part):
    """Rotary position embedding: which share of a head's dims turns, how fast, and how far it is stretched."""

    theta: float = Field(10_000.0, gt=0)
    fraction: float = Field(1.0, gt=0, le=1, description="share of head_dim that rotates, from the front")
    interleaved: bool = Field(False, description="pairs are (0,1),(2,3)… instead of (0,h/2),(1,h/2+1)…")
    scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = Field(1.0, ge=1)
    original_positions: PositiveInt | None = Field(None, description="context length before it was stretched")
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None

    @model_validator(mode="after")
    def _stretch_is_whole(self) -> Self:
        if self.scaling in ("llama3", "yarn") and self.original_positions is None:
            raise ValueError(f"original_positions is required when scaling is '{self.scaling}'")
        return self


class Attention(Part):
    """Self-attention of every layer."""

    kind: Literal["gqa", "mla", "cca"] = Field("gqa", description="cca: compressed convolutional (arXiv 2510.04476)")
    heads: PositiveInt
    kv_heads: PositiveInt | None = Field(None, description="GQA: heads of keys and values; default: as many as heads")
    head_dim: PositiveInt = Field(description="MLA: the part of q and k that does not rotate")
    qk_norm: bool = Field(False, description="RMSNorm over head_dim on q and k, before RoPE")
    window: PositiveInt | None = Field(None, description="sliding window, in positions; default: all before")
    bias: bool = Field(False, description="biases on q, k and v")
    output_bias: bool = False
    q_rank: PositiveInt | None = Field(None, description="MLA: low-rank width of q; default: q is not factored")
    kv_rank: PositiveInt | None = Field(None, description="MLA: low-rank width of keys and values")
    rope_dim: PositiveInt | None = Field(None, description="MLA: dims of q and k that rotate")
    value_dim: PositiveInt | None = Field(None, description="MLA: head dim of values")
    conv_kernels: tuple[PositiveInt, PositiveInt] = Field(
        (2, 2), description="CCA: positions that the convolution of each channel sees, and that of each head"
    )
    key_temperature: float = Field(
        0.0, description="CCA: what the learned scale of each head's keys starts at; 0 as published: even attention"
    )
    rope: Rope = Rope()

    @model_validator(mode="after")
    def _kinds_are_whole(self) -> Self:
        if self.kind == "mla":
            missing = [k for k in ("kv_rank", "rope_dim", "value_dim") if getattr(self, k) is None]
            if missing:
                raise ValueError(f"kind 'mla' also needs {', '.join(missing)}")
        elif self.heads % self.key_value_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.kind == "cca":
            if self.qk_norm:
                raise ValueError("kind 'cca' normalises q and k itself, without gains: leave out qk_norm")
            if self.key_value_heads * self.head_dim % 2:
                raise ValueError(
                    f"kind 'cca' takes half of the values from the token before: kv_heads {self.key_value_heads} × "
                    f"head_dim {self.head_dim} must be even"
                )
        if self.rotating_dims % 2:
            raise ValueError(f"the {self.rotating_dims} dims that rotate must be an even number")
        return self

    @property
    def conv_channels(self) -> int:
        """CCA: channels of q and k together, which are convolved over time."""
        return (self.heads + self.key_value_heads) * self.head_dim

    @property
    def conv_reach(self) -> int:
        """CCA: earlier positions that both convolutions together look back on."""
        return sum(self.conv_kernels) - 2

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def rotating_dims(self) -> int:
        """Dims of a head of q and k that RoPE turns."""
        return self.rope_dim if self.kind == "mla" and self.rope_dim else int(self.head_dim * self.rope.fraction)


class ModelConfig(Document):
    """The whole model: a decoder-only transformer, dense or sparse."""

    kind: ClassVar[str] = "model config"
    model_config = Document.model_config | {"protected_namespaces": ()}

    family: Literal["ling2", "qwen3-moe", "mixtral", "deepseek-v3", "llama", "qwen3", "zaya", "grainline"] = Field(
        "ling2", description="whose names and layout the Hugging Face folder has"
    )
    vocab_size: PositiveInt
    hidden_size: PositiveInt = Field(description="D")
    layers: PositiveInt = Field(description="L")
    ffn_hidden: PositiveInt = Field(description="F of a dense layer")
    max_positions: PositiveInt = 4096
    norm_eps: float = Field(1e-6, gt=0)
    tie_embeddings: bool = False
    init_std: float = Field(0.02, gt=0)
    residual_scaling: bool = Field(
        False, description="ZAYA1: gains and biases on the stream and on what is added to it"
    )
    mtp_depth: Literal[0, 1] = Field(0, description="multi-token prediction: layers that predict one token further")
    bos_token_id: int | None = Field(None, ge=0)
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = Field(None, ge=0)
    attention: Attention
    moe: Moe | None = None

    @field_validator("moe")
    @classmethod
    def _dense_layers_are_layers(cls, moe: Moe | None, info: object) -> Moe | None:
        layers = getattr(info, "data", {}).get("layers")
        if moe and layers and any(not 0 <= i < layers for i in moe.dense_layers):
            raise ValueError(f"dense_layers {list(moe.dense_layers)} must lie between 0 and {layers - 1}")
        return moe

    @model_validator(mode="after")
    def _scaling_has_no_mtp(self) -> Self:
        if self.residual_scaling and self.mtp_depth:
            raise ValueError("residual_scaling doesn't go with mtp_depth: ZAYA1 has no such layer to take it from")
        return self

    @model_validator(mode="after")
    def _layers_can_share(self) -> Self:
        if self.moe and len(self.sparse_layers) % self.moe.reuse:
            raise ValueError(
                f"moe.reuse {self.moe.reuse} doesn't divide the {len(self.sparse_layers)} sparse layers"
                f"{', of which one is MTP' if self.mtp_depth else ''}: change layers, dense_layers or mtp_depth"
            )
        return self

    def is_sparse(self, layer: int) -> bool:
        """Whether this layer's FFN is a mixture of experts; the MTP layer, number L, is one where the model has any."""
        return self.moe is not None and layer not in self.moe.dense_layers

    @property
    def sparse_layers(self) -> tuple[int, ...]:
        """The layers with experts, MTP's (number L) included."""
        return tuple(i for i in range(self.layers + self.mtp_depth) if self.is_sparse(i))

    def takes_carry(self, layer: int) -> bool:
        """Whether the router of this sparse layer is given what another left: neither the first one's is, nor MTP's."""
        carries = self.moe is not None and self.moe.carry_width > 0
        return carries and self.is_sparse(layer) and self.sparse_layers[0] != layer < self.layers

    @property
    def banks(self) -> tuple[int, ...]:
        """The first layer of each group of sparse layers that share their experts; none where none do."""
        reuse = 1 if self.moe is None else self.moe.reuse
        return () if reuse == 1 else self.sparse_layers[::reuse]

    def expert_layers(self, layer: int) -> tuple[int, ...]:
        """The sparse layers that share experts with this one, itself included, in order (ReXMoE, arXiv 2510.17483)."""
        assert self.moe is not None
        mates, own = self.sparse_layers, self.sparse_layers.index(layer)
        first = own - own % self.moe.reuse
        return mates[first : first + self.moe.reuse]

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end a generation."""
        eos = self.eos_token_id
        return () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
