"""Mixtral (MixtralForCausalLM): every layer sparse, softmax routing whose chosen scores sum to one."""

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

FAMILY = "mixtral"
MODEL_TYPE = "mixtral"
ARCHITECTURE = "MixtralForCausalLM"
NAMES = Names(moe="block_sparse_moe.", expert_gate="w1", expert_up="w3", expert_down="w2")


def config_from_hf(tables: Mapping[str, Any], where: str | Path = "config.json") -> ModelConfig:
    """ModelConfig of a config.json; DocumentError names the key and value of what can't be computed."""
    keys = Keys(tables, where)
    check_architecture(keys, ARCHITECTURE)
    rope = rope_from_hf(keys, theta=1_000_000.0)
    attention = {**heads_from_hf(keys), "window": keys.get("sliding_window"), "rope": rope}
    moe = {
        "experts": keys.integer("num_local_experts" if "num_local_experts" in tables else "num_experts"),
        "top_k": keys.integer("num_experts_per_tok"),
        "expert_hidden": keys.integer("intermediate_size"),
        "router": "softmax-topk",
    }
    common = common_from_hf(keys, norm_eps=1e-5)
    return ModelConfig.parse({"family": FAMILY, **common, "attention": attention, "moe": moe}, where)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json of a ModelConfig of this family."""
    moe = config.moe
    if moe is None:
        raise GrainlineError("moe: family 'mixtral' can't be without experts; use family 'llama'.")
    return {
        **common_to_hf(config, model_type=MODEL_TYPE, architecture=ARCHITECTURE),
        **heads_to_hf(config),
        "intermediate_size": moe.expert_hidden,
        "sliding_window": config.attention.window,
        **rope_to_hf(config.attention.rope),
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
    }
