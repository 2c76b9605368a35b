"""Qwen3, dense (Qwen3ForCausalLM): grouped-query attention with QK-norm."""

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

FAMILY = "qwen3"
MODEL_TYPE = "qwen3"
ARCHITECTURE = "Qwen3ForCausalLM"
NAMES = Names()


def config_from_hf(tables: Mapping[str, Any], where: str | Path = "config.json") -> ModelConfig:
    """ModelConfig of a config.json; DocumentError names the key and value of what can't be computed."""
    keys = Keys(tables, where)
    check_architecture(keys, ARCHITECTURE)
    bias = keys.flag("attention_bias", False)
    attention = {
        **heads_from_hf(keys, head_dim=128),
        "qk_norm": True,
        "bias": bias,
        "output_bias": bias,
        "window": _window(keys),
        "rope": rope_from_hf(keys, theta=10_000.0),
    }
    return ModelConfig.parse({"family": FAMILY, **common_from_hf(keys), "attention": attention}, where)


def _window(keys: Keys) -> int | None:
    """The sliding window of all layers, or None: those from `max_window_layers` on, or as `layer_types` says."""
    if not keys.flag("use_sliding_window", False) or keys.get("sliding_window") is None:
        return None
    layers = keys.integer("num_hidden_layers")
    kinds = keys.list("layer_types")
    slides = (
        [kind == "sliding_attention" for kind in kinds]
        if kinds
        else [i >= keys.integer("max_window_layers", 28) for i in range(layers)]
    )
    if any(slides) and not all(slides):
        keys.refuse("layer_types" if kinds else "max_window_layers", "a sliding window in some of the layers only")
    return keys.integer("sliding_window") if all(slides) else None


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json of a ModelConfig of this family."""
    window = config.attention.window
    return {
        **common_to_hf(config, model_type=MODEL_TYPE, architecture=ARCHITECTURE),
        **heads_to_hf(config),
        "attention_bias": config.attention.bias,
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": config.layers if window is None else 0,
        **rope_to_hf(config.attention.rope),
    }
