"""Names and keys of ZAYA1's original folders, whose layers alternate between attention and experts, in today's.

Original layer 2i is the attention of layer i, 2i + 1 its experts. A residual scaling lies with the layer before which
it acts, so it belongs to what came before: layer 0's to the embedding, the model's own to the last layer's experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grainline.documents import GrainlineError
from grainline.models.formats.keys import Keys

ATTENTION = {
    "input_norm.": "input_layernorm.",
    "self_attn.qkv.linear_q.": "self_attn.qkv_proj.q_proj.",
    "self_attn.qkv.linear_k.": "self_attn.qkv_proj.k_proj.",
    "self_attn.qkv.val_proj1.": "self_attn.qkv_proj.v_proj_current.",
    "self_attn.qkv.val_proj2.": "self_attn.qkv_proj.v_proj_delayed.",
    "self_attn.qkv.conv_qk.0.": "self_attn.qkv_proj.conv_qk_depthwise.",
    "self_attn.qkv.conv_qk.1.": "self_attn.qkv_proj.conv_qk_grouped.",
    "self_attn.qkv.temp": "self_attn.qk_norm.temp",
    "self_attn.o_proj.": "self_attn.o_proj.",
}
EXPERTS = {
    "input_norm.": "post_attention_layernorm.",
    "zaya_block.router.rmsnorm_eda.": "mlp.gate.router_mlp.norm.",
    "zaya_block.router.router_mlp.0.": "mlp.gate.router_mlp.fc1.",
    "zaya_block.router.router_mlp.2.": "mlp.gate.router_mlp.fc2.",
    "zaya_block.router.router_mlp.4.": "mlp.gate.router_mlp.out_proj.",
    "zaya_block.router.down_proj.": "mlp.gate.down_proj.",
    "zaya_block.router.router_states_scale": "mlp.gate.router_states_scale",
    "zaya_block.router.balancing_biases": "mlp.gate.balancing_biases",
}
"""How a name goes on after its layer, in the original and today, for both kinds of layer."""

MODEL = {
    "model.embed_tokens.weight": "model.embed_tokens.weight",
    "model.final_norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_EXPERT = re.compile(r"zaya_block\.experts\.local_experts\.(\d+)\.linear_fc([12])\.weight")
_STACKED = {"1": "gate_up_proj", "2": "down_proj"}


@dataclass(frozen=True)
class Place:
    """Where a tensor goes: a name of today's, and which expert's it is of those stacked there."""

    name: str
    expert: int | None = None


def rename(names: Iterable[str], layers: int) -> dict[str, Place]:
    """Original name → place, for a folder of `layers` alternating layers.

    Raises GrainlineError for an odd number of layers, a name that isn't known, and two of one place.
    """
    if layers % 2:
        raise GrainlineError(
            f"{layers} layers can't alternate between attention and experts: an even number is needed."
        )
    found = {name: _place(name, layers) for name in names}
    if len(set(found.values())) < len(found):
        taken: dict[Place, str] = {}
        for name, place in found.items():
            if place in taken:
                raise GrainlineError(f"'{name}' and '{taken[place]}' would both become '{place.name}'.")
            taken[place] = name
    return found


def _place(name: str, layers: int) -> Place:
    if name in MODEL:
        return Place(MODEL[name])
    if name.startswith("model.res_scale."):
        return _scaling(layers, name.removeprefix("model.res_scale."))
    layer = _LAYER.fullmatch(name)
    if layer and int(layer[1]) < layers:
        number, rest = int(layer[1]), layer[2]
        if rest.startswith("res_scale."):
            return _scaling(number, rest.removeprefix("res_scale."))
        expert = _EXPERT.fullmatch(rest)
        if expert and number % 2:
            return Place(f"model.layers.{number // 2}.mlp.experts.{_STACKED[expert[2]]}", int(expert[1]))
        for before, today in (EXPERTS if number % 2 else ATTENTION).items():
            if rest.startswith(before):
                return Place(f"model.layers.{number // 2}.{today}{rest.removeprefix(before)}")
    raise GrainlineError(f"'{name}' is not a tensor of an original ZAYA1 folder of {layers} layers.")


def _scaling(number: int, rest: str) -> Place:
    """Of the scaling that acts before original layer `number`."""
    if number == 0:
        return Place(f"model.input_{rest}")
    after = "post_attention" if number % 2 else "post_mlp"
    return Place(f"model.layers.{(number - 1) // 2}.{after}_residual_scale.{rest}")


SAME = (
    *("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "num_experts"),
    *("max_position_embeddings", "initializer_range", "tie_word_embeddings", "attention_bias", "lm_head_bias"),
    *("cca_time0", "cca_time1", "bos_token_id", "eos_token_id", "pad_token_id", "hidden_act"),
)
"""Keys of config.json that mean today what they meant."""


def config_of_today(tables: Mapping[str, Any], where: str | Path = "config.json") -> dict[str, Any]:
    """config.json of an original folder as it would be said today. DocumentError names what is missing or odd.

    An expert's width counts gate and up there; a window counts the positions before a token there, and with it today.
    """
    keys = Keys(tables, where)
    layers, both = keys.integer("num_hidden_layers"), keys.get("intermediate_size") or keys.integer("ffn_hidden_size")
    if layers % 2:
        keys.refuse("num_hidden_layers", "attention and experts alternate in the original, so it must be even")
    windows = (keys.list("swa_layers") or [0] * layers)[::2]
    kinds = ["hybrid_sliding" if window else "hybrid" for window in windows]
    rope = {
        kind: {"rope_type": "default", "rope_theta": keys.number(key, theta), "partial_rotary_factor": 0.5}
        for kind, key, theta in (("hybrid", "rope_theta", 5e6), ("hybrid_sliding", "swa_rotary_base", 1e4))
    }
    return {
        **{key: tables[key] for key in SAME if key in tables},
        "architectures": ["ZayaForCausalLM"],
        "model_type": "zaya",
        "num_hidden_layers": layers // 2,
        "moe_intermediate_size": both // 2,
        "num_experts_per_tok": keys.integer("moe_router_topk", 1),
        "router_hidden_size": keys.integer("zaya_mlp_expansion", 256),
        "rms_norm_eps": keys.number("norm_epsilon", 1e-5),
        "sliding_window": max(windows) + 1 if any(windows) else None,
        "layer_types": kinds,
        "rope_parameters": rope,
    }
