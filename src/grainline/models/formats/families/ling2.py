"""Ling 2.0 (BailingMoeV2ForCausalLM): QK-norm, partial RoPE, bias-balanced group-limited sigmoid routing, MTP.

Every Activation Boosted, arXiv 2510.22115, section 2; names and keys as in inclusionAI/Ling-V2's own model code,
which is what vLLM and SGLang read too. Its multi-token prediction layer is number L of the checkpoint.
"""

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
    mtp_depth_from_hf,
)
from grainline.models.formats.keys import Keys
from grainline.models.formats.layout import Names
from grainline.models.formats.rope import rope_from_hf, rope_to_hf

FAMILY = "ling2"
MODEL_TYPE = "bailing_moe_v2"
ARCHITECTURE = "BailingMoeV2ForCausalLM"
NAMES = Names(
    embedding="model.word_embeddings.weight",
    attention="attention.",
    qkv="query_key_value",
    o="dense",
    q_norm="query_layernorm",
    k_norm="key_layernorm",
    router_bias="gate.expert_bias",
    mtp_norm="final_layernorm.weight",
)


def config_from_hf(tables: Mapping[str, Any], where: str | Path = "config.json") -> ModelConfig:
    """ModelConfig of a config.json; DocumentError names the key and value of what can't be computed."""
    keys = Keys(tables, where)
    if keys.get("model_type") == "bailing_moe" and not keys.get("architectures"):
        keys.refuse("model_type", f"it is also Ling 1's; architectures must say {ARCHITECTURE}")
    check_architecture(keys, ARCHITECTURE)
    keys.must_be("use_rmsnorm", True, "norms are RMSNorm")
    keys.must_be("use_sliding_window", False, "this family attends to all positions before")
    heads = heads_from_hf(keys)
    attention = {
        **heads,
        "qk_norm": keys.flag("use_qk_norm", True),
        "bias": keys.flag("use_qkv_bias", False),
        "output_bias": keys.flag("use_bias", False),
        "rope": rope_from_hf(keys, theta=600_000.0, fraction=_rotating_fraction(keys, heads["head_dim"])),
    }
    config = {"family": FAMILY, **common_from_hf(keys), "mtp_depth": mtp_depth_from_hf(keys), "attention": attention}
    if keys.get("num_experts"):
        config["moe"] = _moe(keys)
    return ModelConfig.parse(config, where)


def _rotating_fraction(keys: Keys, head_dim: int) -> float:
    """Share of a head that rotates: `partial_rotary_factor`, else `rotary_dim` of it, else all."""
    dims = keys.integer("rotary_dim") if keys.get("rotary_dim") is not None else None
    inside = Keys(keys.table("rope_parameters"), f"{keys.where}: rope_parameters")
    holder = inside if inside.get("partial_rotary_factor") is not None else keys
    if holder.get("partial_rotary_factor") is None:
        return 1.0 if dims is None else dims / max(head_dim, 1)
    said = holder.number("partial_rotary_factor")
    if dims is not None and int(head_dim * said) != dims:
        keys.refuse("rotary_dim", f"partial_rotary_factor {said} of head_dim {head_dim} is {int(head_dim * said)}")
    return said


def _moe(keys: Keys) -> dict[str, Any]:
    keys.must_be("score_function", "sigmoid", "scores are sigmoids")
    top_k = keys.integer("num_experts_per_tok")
    if top_k > 1:
        keys.must_be("norm_topk_prob", True, "this family's own code always normalises the chosen scores")
    groups = keys.integer("n_group", 0) or 1  # 0 stands for no groups in published configs
    layers = keys.integer("num_hidden_layers")
    return {
        "experts": keys.integer("num_experts"),
        "top_k": top_k,
        "expert_hidden": keys.integer("moe_intermediate_size"),
        "shared_experts": keys.integer("num_shared_experts", 0),
        "shared_hidden": keys.get("moe_shared_expert_intermediate_size"),
        "bias_balanced": keys.flag("moe_router_enable_expert_bias", True),
        "groups": groups,
        "top_groups": keys.integer("topk_group", 0) or 1,
        "normalize": top_k > 1,  # the family's own code leaves the score of a single expert as it is
        "scale": keys.number("routed_scaling_factor", 1.0),
        "dense_layers": list(range(min(keys.integer("first_k_dense_replace", 0), layers))),
    }


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json of a ModelConfig of this family. It names no remote code: none is shipped."""
    a, moe = config.attention, config.moe
    tables = {
        **common_to_hf(config, model_type=MODEL_TYPE, architecture=ARCHITECTURE),
        **heads_to_hf(config),
        "use_qk_norm": a.qk_norm,
        "use_qkv_bias": a.bias,
        "use_bias": a.output_bias,
        "use_rmsnorm": True,
        "partial_rotary_factor": a.rope.fraction,
        "rotary_dim": a.rotating_dims,
        **rope_to_hf(a.rope),
        "num_nextn_predict_layers": config.mtp_depth,
        "num_experts": None,
        "first_k_dense_replace": config.layers,
    }
    if moe is not None:
        tables |= {
            "num_experts": moe.experts,
            "num_experts_per_tok": moe.top_k,
            "moe_intermediate_size": moe.expert_hidden,
            "num_shared_experts": moe.shared_experts,
            "moe_shared_expert_intermediate_size": moe.shared_hidden or moe.expert_hidden,
            "moe_router_enable_expert_bias": moe.bias_balanced,
            "n_group": moe.groups,
            "topk_group": moe.top_groups,
            "norm_topk_prob": moe.normalize,
            "routed_scaling_factor": moe.scale,
            "score_function": "sigmoid",
            "router_dtype": "fp32",
            "first_k_dense_replace": len(moe.dense_layers),
        }
    return tables
