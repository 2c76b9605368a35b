"""ZAYA1 (ZayaForCausalLM): compressed convolutional attention, depth-averaged routing with a skip class, and scaling.

Names and keys as in transformers' own `zaya`. Folders from before, whose layers alternate between attention and
experts, have other names: see `zaya_original`.
"""

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

FAMILY = "zaya"
MODEL_TYPE = "zaya"
ARCHITECTURE = "ZayaForCausalLM"
NAMES = Names(
    router="gate.",
    router_bias="gate.balancing_biases",
    fused_experts=("experts.gate_up_proj", "experts.down_proj"),
)
FULL, SLIDING = "hybrid", "hybrid_sliding"
THETA = {FULL: 5_000_000.0, SLIDING: 10_000.0}
"""Kind of layer → what its rotations start from where the config doesn't say."""


def config_from_hf(tables: Mapping[str, Any], where: str | Path = "config.json") -> ModelConfig:
    """ModelConfig of a config.json; DocumentError names the key and value of what can't be computed."""
    keys = Keys({**tables, "intermediate_size": tables.get("moe_intermediate_size")}, where)
    check_architecture(keys, ARCHITECTURE)
    if keys.get("cca") or keys.get("zaya_use_eda"):
        keys.refuse(
            "zaya_use_eda" if keys.get("zaya_use_eda") else "cca",
            "this is the layout from before, of alternating layers; convert the folder first (see docs/zaya.md)",
        )
    keys.must_be("lm_head_bias", False, "the output layer has no bias")
    kind = _layer_kind(keys)
    bias = keys.flag("attention_bias", False)
    attention = {
        "kind": "cca",
        **heads_from_hf(keys, head_dim=128),
        "conv_kernels": (keys.integer("cca_time0", 2), keys.integer("cca_time1", 2)),
        "bias": bias,
        "output_bias": bias,
        "window": keys.integer("sliding_window") if kind == SLIDING else None,
        "rope": _rope(keys, kind),
    }
    moe = {
        "experts": keys.integer("num_experts"),
        "top_k": keys.integer("num_experts_per_tok", 1),
        "expert_hidden": keys.integer("moe_intermediate_size"),
        "zero": 1,
        "router": "depth-averaged",
        "router_hidden": keys.integer("router_hidden_size", 256),
        "bias_balanced": True,
        "normalize": False,
    }
    config = {"family": FAMILY, **common_from_hf(keys, norm_eps=1e-5), "residual_scaling": True}
    config["tie_embeddings"] = keys.flag("tie_word_embeddings", True)
    return ModelConfig.parse({**config, "attention": attention, "moe": moe}, where)


def _layer_kind(keys: Keys) -> str:
    kinds = keys.list("layer_types") or [FULL]
    if len(set(kinds)) > 1:
        keys.refuse("layer_types", "every layer has the same window and RoPE here")
    if kinds[0] not in THETA:
        keys.refuse("layer_types", f"known are '{FULL}' and '{SLIDING}'")
    return str(kinds[0])


def _rope(keys: Keys, kind: str) -> dict[str, Any]:
    """RoPE is told for each kind of layer; only this model's is read."""
    told = keys.table("rope_parameters")
    own = Keys({"rope_parameters": told}, keys.where).table("rope_parameters").get(kind, {})
    inner = Keys({**keys.tables, "rope_parameters": own}, keys.where)
    fraction = Keys(own, f"{keys.where}: rope_parameters.{kind}").number("partial_rotary_factor", 0.5)
    return rope_from_hf(inner, theta=THETA[kind], fraction=fraction)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json of a ModelConfig of this family."""
    a, moe = config.attention, config.moe
    if moe is None or a.kind != "cca" or moe.router != "depth-averaged" or moe.router_hidden is None:
        raise GrainlineError(
            "family 'zaya' has compressed convolutional attention and experts behind a depth-averaged router: set "
            "attention.kind 'cca' and moe.router 'depth-averaged'."
        )
    if moe.top_k != 1:
        raise GrainlineError(f"moe.top_k: family 'zaya' routes each token to one expert, not {moe.top_k}.")
    kind = FULL if a.window is None else SLIDING
    said = rope_to_hf(a.rope)
    scaling = said["rope_scaling"] or {"rope_type": "default"}
    rope = {**scaling, "rope_theta": said["rope_theta"], "partial_rotary_factor": a.rope.fraction}
    tables = {
        **common_to_hf(config, model_type=MODEL_TYPE, architecture=ARCHITECTURE),
        **heads_to_hf(config),
        "attention_bias": a.bias,
        "cca_time0": a.conv_kernels[0],
        "cca_time1": a.conv_kernels[1],
        "sliding_window": a.window,
        "layer_types": [kind] * config.layers,
        "rope_parameters": {kind: rope},
        "num_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.expert_hidden,
        "router_hidden_size": moe.router_hidden,
        "lm_head_bias": False,
    }
    del tables["intermediate_size"]  # every layer has experts
    return tables
