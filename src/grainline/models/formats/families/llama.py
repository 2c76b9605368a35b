"""Llama 2 and 3 (LlamaForCausalLM): dense, grouped-query attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grainline.documents import ModelConfig
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

FAMILY = "llama"
MODEL_TYPE = "llama"
ARCHITECTURE = "LlamaForCausalLM"
NAMES = Names()


def config_from_hf(tables: Mapping[str, Any], where: str | Path = "config.json") -> ModelConfig:
    """ModelConfig of a config.json; DocumentError names the key and value of what can't be computed."""
    keys = Keys(tables, where)
    check_architecture(keys, ARCHITECTURE)
    bias = keys.flag("attention_bias", False)
    rope = rope_from_hf(keys, theta=10_000.0)
    attention = {**heads_from_hf(keys), "bias": bias, "output_bias": bias, "rope": rope}
    return ModelConfig.parse({"family": FAMILY, **common_from_hf(keys), "attention": attention}, where)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json of a ModelConfig of this family."""
    return {
        **common_to_hf(config, model_type=MODEL_TYPE, architecture=ARCHITECTURE),
        **heads_to_hf(config),
        "attention_bias": config.attention.bias,
        "mlp_bias": False,
        **rope_to_hf(config.attention.rope),
    }
