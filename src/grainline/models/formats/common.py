"""What every family's config.json says alike."""

from __future__ import annotations

from typing import Any

from grainline.documents import ModelConfig
from grainline.models.formats.keys import Keys


def check_architecture(keys: Keys, architecture: str) -> None:
    """Refuse a config whose `architectures` doesn't hold `architecture`; older ones without the key pass."""
    said = keys.list("architectures")
    if said and architecture not in said:
        keys.refuse("architectures", f"of model_type '{keys.get('model_type')}' only {architecture} is computed")


def common_from_hf(keys: Keys, *, norm_eps: float = 1e-6) -> dict[str, Any]:
    """ModelConfig's own fields, sizes and token ids; `norm_eps` is the family's default."""
    keys.must_be("hidden_act", "silu", "feed-forward layers are SwiGLU, hidden_act 'silu'")
    eos = keys.get("eos_token_id")
    return {
        "vocab_size": keys.integer("vocab_size"),
        "hidden_size": keys.integer("hidden_size"),
        "layers": keys.integer("num_hidden_layers"),
        "ffn_hidden": keys.integer("intermediate_size"),
        "max_positions": keys.integer("max_position_embeddings"),
        "norm_eps": keys.number("rms_norm_eps", norm_eps),
        "tie_embeddings": keys.flag("tie_word_embeddings", False),
        "init_std": keys.number("initializer_range", 0.02),
        "bos_token_id": keys.get("bos_token_id"),
        "eos_token_id": tuple(eos) if isinstance(eos, list) else eos,
        "pad_token_id": keys.get("pad_token_id"),
    }


def common_to_hf(config: ModelConfig, *, model_type: str, architecture: str) -> dict[str, Any]:
    """The inverse of `common_from_hf`, with the names that loaders go by."""
    eos = config.eos_token_id
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "intermediate_size": config.ffn_hidden,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": config.pad_token_id,
        "use_cache": True,
    }


def heads_from_hf(keys: Keys, *, head_dim: int | None = None) -> dict[str, int]:
    """Heads and their dim; `head_dim` is the family's default, None means hidden_size / heads."""
    heads = keys.integer("num_attention_heads")
    return {
        "heads": heads,
        "kv_heads": keys.integer("num_key_value_heads", heads),
        "head_dim": keys.integer("head_dim", head_dim or keys.integer("hidden_size") // max(heads, 1)),
    }


def heads_to_hf(config: ModelConfig) -> dict[str, int]:
    """The inverse of `heads_from_hf`."""
    a = config.attention
    return {"num_attention_heads": a.heads, "num_key_value_heads": a.key_value_heads, "head_dim": a.head_dim}


def mtp_depth_from_hf(keys: Keys) -> int:
    """Depth of multi-token prediction. Only one layer is meaningful: published models have one, or none."""
    depth = keys.integer("num_nextn_predict_layers", 0)
    if depth > 1:
        keys.refuse("num_nextn_predict_layers", "at most one layer of multi-token prediction is computed")
    return depth
