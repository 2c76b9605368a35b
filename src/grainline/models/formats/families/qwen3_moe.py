"""Qwen3-MoE (Qwen3MoeForCausalLM): QK-norm, softmax routing without shared experts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grainline.documents import GrainlineError, ModelConfig
from grainline.models.formats.common import (
    check_architecture,
    common_from_hf,
    common_to_hf,
    heads_from_hf,
    heads_to_hf,
)
from grainline.models.formats.keys import Keys
from grainline.models.formats.layout import Names
from grainline.models.formats.rope import rope_from_hf, rope_to_hf

FAMILY = "qwen3-moe"
MODEL_TYPE = "qwen3_moe"
ARCHITECTURE = "Qwen3MoeForCausalLM"
NAMES = Names()


def config_from_hf(tables: Mapping[str, Any], where: str | Path = "config.json") -> ModelConfig:
    """ModelConfig of a config.json; DocumentError names the key and value of what can't be computed."""
    keys = Keys(tables, where)
    check_architecture(keys, ARCHITECTURE)
    bias = keys.flag("attention_bias", False)
    attention = {
        **heads_from_hf(keys),
        "qk_norm": True,
        "bias": bias,
        "output_bias": bias,
        "window": keys.get("sliding_window") if keys.flag("use_sliding_window", False) else None,
        "rope": rope_from_hf(keys, theta=10_000.0),
    }
    moe = {
        # transformers 5 writes num_local_experts where the published configs have num_experts.
        "experts": keys.integer("num_experts" if "num_experts" in tables else "num_local_experts"),
        "top_k": keys.integer("num_experts_per_tok"),
        "expert_hidden": keys.integer("moe_intermediate_size"),
        "router": "softmax-topk",
        "normalize": keys.flag("norm_topk_prob", False),
        "dense_layers": _dense_layers(keys),
    }
    return ModelConfig.parse({"family": FAMILY, **common_from_hf(keys), "attention": attention, "moe": moe}, where)


def _dense_layers(keys: Keys) -> list[int]:
    """Layers named in `mlp_only_layers`, and those that `decoder_sparse_step` passes over."""
    step = keys.integer("decoder_sparse_step", 1)
    if step < 1:
        keys.refuse("decoder_sparse_step", "must be at least 1")
    named = keys.list("mlp_only_layers")
    return [i for i in range(keys.integer("num_hidden_layers")) if i in named or (i + 1) % step]


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json of a ModelConfig of this family."""
    moe, window = config.moe, config.attention.window
    if moe is None:
        raise GrainlineError("moe: family 'qwen3-moe' can't be without experts; use family 'qwen3'.")
    return {
        **common_to_hf(config, model_type=MODEL_TYPE, architecture=ARCHITECTURE),
        **heads_to_hf(config),
        "attention_bias": config.attention.bias,
        "use_sliding_window": window is not None,
        "sliding_window": window,
        **rope_to_hf(config.attention.rope),
        "num_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.expert_hidden,
        "norm_topk_prob": moe.normalize,
        "decoder_sparse_step": 1,
        "mlp_only_layers": sorted(moe.dense_layers),
    }
