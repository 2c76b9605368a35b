"""config.json both ways: nothing that changes what is computed is lost, and nothing that isn't computed passes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from grainline.documents import Attention, DocumentError, GrainlineError, ModelConfig, Moe, Rope
from grainline.models.formats import FAMILIES, canonical, config_from_hf, config_to_hf

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
MOE: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LING = SIZES | MOE | {"num_experts": 8, "first_k_dense_replace": 1, "architectures": ["BailingMoeV2ForCausalLM"]}
DEEPSEEK = (
    SIZES
    | MOE
    | {
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
    }
)
SMALLEST: dict[str, dict[str, Any]] = {
    "bailing_moe_v2": LING,
    "bailing_moe": LING,
    "qwen3_moe": SIZES | MOE | {"num_experts": 8},
    "mixtral": SIZES | {"num_local_experts": 8, "num_experts_per_tok": 2},
    "deepseek_v3": DEEPSEEK,
    "llama": SIZES,
    "qwen3": SIZES,
}


def hf(model_type: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": model_type, **SMALLEST[model_type], **changes}


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

NOT_COMPUTED = [
    ("llama", {"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
    ("llama", {"mlp_bias": True}, "mlp_bias: True"),
    ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantization_config: {'quant_method': 'fp8'}"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "architectures: ['LlamaForSequenceClass"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type: 'dynamic'"),
    ("llama", {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "rope_parameters.rope_type: 'longrope'"),
    ("llama", {"rope_scaling": {**YARN, "truncate": False}}, "rope_scaling.truncate: False"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: is required"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters: {'full_attention'"),
    ("llama", {"rope_parameters": YARN, "rope_scaling": LLAMA3}, "rope_scaling: {"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
    ("llama", {"attention_sinks": True}, "attention_sinks: True"),
    ("llama", {"vocab_size": None}, "vocab_size: is required"),
    ("llama", {"num_hidden_layers": "4"}, "num_hidden_layers: must be a whole number, not '4'"),
    ("llama", {"attention_bias": "no"}, "attention_bias: must be true or false, not 'no'"),
    ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps: must be a number, not 'small'"),
    (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        "max_window_layers: 2",
    ),
    (
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 8,
            "layer_types": ["full_attention", *["sliding_attention"] * 3],
        },
        "layer_types: ['full_attention'",
    ),
    ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step: 0"),
    ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func: 'softmax'"),
    ("deepseek_v3", {"topk_method": "greedy"}, "topk_method: 'greedy'"),
    ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq: 2"),
    ("deepseek_v3", {"num_key_value_heads": 2}, "num_key_value_heads: 2"),
    ("deepseek_v3", {"num_nextn_predict_layers": 2}, "num_nextn_predict_layers: 2"),
    ("bailing_moe_v2", {"score_function": "softmax"}, "score_function: 'softmax'"),
    ("bailing_moe_v2", {"norm_topk_prob": False}, "norm_topk_prob: False"),
    ("bailing_moe_v2", {"use_rmsnorm": False}, "use_rmsnorm: False"),
    ("bailing_moe_v2", {"norm_head": True}, "norm_head: True"),
    ("bailing_moe_v2", {"partial_rotary_factor": 0.5, "rotary_dim": 8}, "rotary_dim: 8"),
    ("bailing_moe", {"architectures": ["BailingMoeForCausalLM"]}, "architectures: ['BailingMoeForCausalLM']"),
    ("bailing_moe", {"architectures": None}, "model_type: 'bailing_moe'"),
    ("mixtral", {"num_local_experts": 1}, "top_k 2 is more than the 1 experts"),
]


@pytest.mark.parametrize(
    ("model_type", "changes", "said"), NOT_COMPUTED, ids=[f"{case[0]} {case[2][:40]}" for case in NOT_COMPUTED]
)
def test_what_is_not_computed_is_refused_by_key_and_value(model_type: str, changes: dict[str, Any], said: str) -> None:
    assert config_from_hf(hf(model_type)).layers == 4
    with pytest.raises(DocumentError) as refusal:
        config_from_hf(hf(model_type, **changes), where="somewhere/config.json")
    assert said in str(refusal.value)
    assert str(refusal.value).startswith("somewhere/config.json: ")


@pytest.mark.parametrize("model_type", ["gpt2", None])
def test_an_unknown_model_type_lists_those_known(model_type: str | None) -> None:
    with pytest.raises(DocumentError) as refusal:
        config_from_hf({"model_type": model_type})
    assert all(known in str(refusal.value) for known in FAMILIES)


@pytest.mark.parametrize("model_type", SMALLEST)
@pytest.mark.parametrize("scaling", [None, YARN | {"mscale": 0.7, "mscale_all_dim": 1.2}, LLAMA3])
def test_reading_what_was_written_gives_the_same_config_and_file(
    model_type: str, scaling: dict[str, Any] | None
) -> None:
    changes = {"rope_scaling": scaling, "rope_theta": 1234.5, "eos_token_id": [3, 4], "initializer_range": 0.006}
    config = config_from_hf(hf(model_type, **changes))
    assert config.attention.rope.theta == 1234.5
    assert config.attention.rope.scaling == (scaling["rope_type"] if scaling else "none")
    written = config_to_hf(config)
    again = config_from_hf(written)
    assert canonical(again) == canonical(config)
    assert config_to_hf(again) == written


@pytest.mark.parametrize("model_type", ["llama", "bailing_moe_v2"])
@pytest.mark.parametrize("scaling", [{}, YARN, LLAMA3])
def test_both_ways_of_writing_rope_mean_the_same(model_type: str, scaling: dict[str, Any]) -> None:
    older = dict(scaling)
    if scaling:
        older["type"] = older.pop("rope_type")
    old = hf(model_type, rope_theta=777.0, rope_scaling=older or None)
    new = hf(model_type, rope_parameters={"rope_type": "default", "rope_theta": 777.0, **scaling})
    if model_type == "bailing_moe_v2":
        old["partial_rotary_factor"] = 0.5
        new["rope_parameters"]["partial_rotary_factor"] = 0.5
    assert config_from_hf(old) == config_from_hf(new)


def test_no_value_of_any_key_is_more_than_an_error_for_people() -> None:
    junk = ["x", -1, 0, 0.5, 10**9, True, [], ["x"], {}, {"x": {}}, {"rope_type": []}, None]
    junk += [{"rope_type": "yarn", "original_max_position_embeddings": bad} for bad in (0, "x", [])]
    junk += [{"rope_type": "linear", "factor": bad, "rope_theta": "x"} for bad in (0.1, "x")]
    refused = 0
    for model_type in SMALLEST:
        written = config_to_hf(config_from_hf(hf(model_type)))
        for key in [*written, "rope_parameters", "layer_types", "mlp_only_layers", "quantization_config"]:
            for value in junk if key != "num_hidden_layers" else junk[:4]:
                try:
                    config_to_hf(config_from_hf(written | {key: value}))
                except GrainlineError:
                    refused += 1
    assert refused > 1_000


def test_where_layers_differ_they_are_named() -> None:
    sparse_every_second = hf("qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[3])
    assert config_from_hf(sparse_every_second).moe.dense_layers == (0, 2, 3)  # type: ignore[union-attr]
    assert config_from_hf(hf("bailing_moe_v2", first_k_dense_replace=2)).moe.dense_layers == (0, 1)  # type: ignore[union-attr]


def test_older_configs_go_by_their_familys_defaults() -> None:
    llama = config_from_hf({k: v for k, v in hf("llama").items() if k != "num_key_value_heads"})
    assert (llama.attention.kv_heads, llama.attention.head_dim, llama.attention.rope.theta) == (4, 8, 10_000.0)
    mixtral = config_from_hf(hf("mixtral", head_dim=None))
    assert (mixtral.attention.head_dim, mixtral.attention.rope.theta, mixtral.norm_eps) == (8, 1e6, 1e-5)
    assert config_from_hf(hf("qwen3")).attention.head_dim == 128
    ling = config_from_hf(hf("bailing_moe", n_group=0, topk_group=0))
    assert (ling.moe.groups, ling.moe.top_groups, ling.attention.rope.theta) == (1, 1, 600_000.0)  # type: ignore[union-attr]
    stretched = config_from_hf(hf("llama", rope_scaling={"type": "yarn", "original_max_position_embeddings": 32}))
    assert stretched.attention.rope.factor == 4.0


def gqa(**changes: Any) -> Attention:
    return Attention(heads=4, kv_heads=2, head_dim=8, **changes)


MOE_HERE = Moe(experts=8, top_k=2, expert_hidden=16, router="softmax-topk")
BEYOND_THEIR_FAMILY = [
    ("llama", {"attention": gqa(qk_norm=True)}, "attention.qk_norm"),
    ("llama", {"attention": gqa(), "moe": MOE_HERE}, "moe.experts"),
    ("llama", {"attention": gqa(), "mtp_depth": 1}, "mtp_depth"),
    ("llama", {"attention": gqa(bias=True)}, "attention.output_bias"),
    ("llama", {"attention": gqa(rope=Rope(fraction=0.5))}, "attention.rope.fraction"),
    ("qwen3", {"attention": gqa(qk_norm=True, rope=Rope(interleaved=True))}, "attention.rope.interleaved"),
    ("mixtral", {"attention": gqa(), "moe": MOE_HERE.model_copy(update={"scale": 2.0})}, "moe.scale"),
    ("mixtral", {"attention": gqa(), "moe": MOE_HERE.model_copy(update={"dense_layers": (0,)})}, "moe.dense_layers"),
    ("mixtral", {"attention": gqa()}, "moe"),
    ("qwen3-moe", {"attention": gqa(qk_norm=True)}, "moe"),
    (
        "qwen3-moe",
        {"attention": gqa(qk_norm=True), "moe": MOE_HERE.model_copy(update={"shared_experts": 1})},
        "moe.shared_experts",
    ),
    ("ling2", {"attention": gqa(window=4)}, "attention.window"),
    ("ling2", {"attention": gqa(), "moe": MOE_HERE}, "moe.router"),
    (
        "ling2",
        {"attention": gqa(), "moe": Moe(experts=8, top_k=2, expert_hidden=16, dense_layers=(1,))},
        "moe.dense_layers",
    ),
    ("deepseek-v3", {"attention": gqa(), "moe": MOE_HERE}, "attention.kind"),
]


@pytest.mark.parametrize(("family", "changes", "key"), BEYOND_THEIR_FAMILY)
def test_what_a_family_cannot_say_is_not_written(family: str, changes: dict[str, Any], key: str) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "layers": 4, "ffn_hidden": 48}
    config = ModelConfig.model_validate({"family": family, **sizes, **changes})
    with pytest.raises(GrainlineError, match=key.replace(".", r"\.")):
        config_to_hf(config)


def test_configs_are_read_without_torch() -> None:
    code = "import sys, grainline.models.locate, grainline.models.formats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
