"""DeepSeek-V3 and R1 (DeepseekV3ForCausalLM): latent attention, bias-balanced group-limited sigmoid routing.

Its multi-token prediction layer is number L of the checkpoint. That layer stores copies of the embedding and the head,
which the model shares (DeepSeek-V3 report, section 2.2); they must equal the trunk's, and are written again on saving.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grainline.documents import GrainlineError, ModelConfig
from grainline.models.formats.common import check_architecture, common_from_hf, common_to_hf, mtp_depth_from_hf
from grainline.models.formats.keys import Keys
from grainline.models.formats.layout import Names
from grainline.models.formats.rope import rope_from_hf, rope_to_hf

FAMILY = "deepseek-v3"
MODEL_TYPE = "deepseek_v3"
ARCHITECTURE = "DeepseekV3ForCausalLM"
NAMES = Names(
    router_bias="gate.e_score_correction_bias",
    mtp_norm="shared_head.norm.weight",
    mtp_copies=("embed_tokens.weight", "shared_head.head.weight"),
)


def config_from_hf(tables: Mapping[str, Any], where: str | Path = "config.json") -> ModelConfig:
    """ModelConfig of a config.json; DocumentError names the key and value of what can't be computed."""
    keys = Keys(tables, where)
    check_architecture(keys, ARCHITECTURE)
    keys.must_be("scoring_func", "sigmoid", "scores are sigmoids")
    keys.must_be("topk_method", "noaux_tc", "experts are chosen by biased scores within groups, 'noaux_tc'")
    keys.must_be("moe_layer_freq", 1, "every layer after the first dense ones is sparse")
    heads = keys.integer("num_attention_heads")
    keys.must_be("num_key_value_heads", heads, "latent attention has as many heads of keys and values as of queries")
    bias = keys.flag("attention_bias", False)
    attention = {
        "kind": "mla",
        "bias": bias,
        "output_bias": bias,
        "heads": heads,
        "head_dim": keys.integer("qk_nope_head_dim"),
        "q_rank": keys.get("q_lora_rank"),
        "kv_rank": keys.integer("kv_lora_rank"),
        "rope_dim": keys.integer("qk_rope_head_dim"),
        "value_dim": keys.integer("v_head_dim"),
        "rope": rope_from_hf(keys, theta=10_000.0, interleaved=keys.flag("rope_interleave", True)),
    }
    layers = keys.integer("num_hidden_layers")
    moe = {
        "experts": keys.integer("n_routed_experts"),
        "top_k": keys.integer("num_experts_per_tok"),
        "expert_hidden": keys.integer("moe_intermediate_size"),
        "shared_experts": keys.integer("n_shared_experts", 0),
        "bias_balanced": True,
        "groups": keys.integer("n_group", 1),
        "top_groups": keys.integer("topk_group", 1),
        "normalize": keys.flag("norm_topk_prob", True),
        "scale": keys.number("routed_scaling_factor", 1.0),
        "dense_layers": list(range(min(keys.integer("first_k_dense_replace"), layers))),
    }
    config = {"family": FAMILY, **common_from_hf(keys), "mtp_depth": mtp_depth_from_hf(keys)}
    return ModelConfig.parse({**config, "attention": attention, "moe": moe}, where)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json of a ModelConfig of this family."""
    a, moe = config.attention, config.moe
    if moe is None or a.kind != "mla":
        raise GrainlineError("family 'deepseek-v3' has experts and latent attention: set moe and attention.kind 'mla'.")
    return {
        **common_to_hf(config, model_type=MODEL_TYPE, architecture=ARCHITECTURE),
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.heads,
        "attention_bias": a.bias,
        "q_lora_rank": a.q_rank,
        "kv_lora_rank": a.kv_rank,
        "qk_nope_head_dim": a.head_dim,
        "qk_rope_head_dim": a.rope_dim,
        "v_head_dim": a.value_dim,
        "rope_interleave": a.rope.interleaved,
        **rope_to_hf(a.rope),
        "n_routed_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.expert_hidden,
        "n_shared_experts": moe.shared_experts,
        "n_group": moe.groups,
        "topk_group": moe.top_groups,
        "norm_topk_prob": moe.normalize,
        "routed_scaling_factor": moe.scale,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "moe_layer_freq": 1,
        "first_k_dense_replace": len(moe.dense_layers),
        "num_nextn_predict_layers": config.mtp_depth,
    }
