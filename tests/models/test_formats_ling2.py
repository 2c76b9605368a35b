"""Ling 2.0 against the second implementation in reference_bailing.py, on folders in its published layout."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from grainline.models.formats.huggingface import load_model

spec = importlib.util.spec_from_file_location("reference_bailing", Path(__file__).with_name("reference_bailing.py"))
assert spec is not None
assert spec.loader is not None
reference_bailing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference_bailing)

TOLERANCE = 1e-5
V, D, F, HEADS, KV, HEAD_DIM, E, F_EXPERT = 61, 24, 40, 4, 2, 12, 16, 10

# As in the published config.json of Ling-mini-2.0, with small sizes.
CONFIG: dict[str, Any] = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_bailing_moe_v2.BailingMoeV2Config"},
    "num_hidden_layers": 3,
    "hidden_size": D,
    "intermediate_size": F,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
    "model_type": "bailing_moe",
    "moe_intermediate_size": F_EXPERT,
    "norm_topk_prob": True,
    "num_experts_per_tok": 4,
    "num_attention_heads": HEADS,
    "num_experts": E,
    "num_key_value_heads": KV,
    "rope_theta": 600000,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_rmsnorm": True,
    "rms_norm_eps": 1e-06,
    "head_dim": HEAD_DIM,
    "num_shared_experts": 1,
    "use_cache": True,
    "use_qkv_bias": False,
    "embedding_dropout": 0.0,
    "output_dropout": 0.0,
    "vocab_size": V,
    "partial_rotary_factor": 0.5,
    "router_dtype": "fp32",
    "moe_router_enable_expert_bias": True,
    "routed_scaling_factor": 2.5,
    "n_group": 4,
    "topk_group": 2,
    "use_qk_norm": True,
    "score_function": "sigmoid",
    "moe_shared_expert_intermediate_size": F_EXPERT,
    "num_nextn_predict_layers": 1,
}
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
}
CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "yarn": {"rope_scaling": YARN, "rope_theta": 500.0},
    "one group, all rotates, two shared experts, tied, eps 1e-3": {
        "n_group": 1,
        "topk_group": 1,
        "partial_rotary_factor": 1.0,
        "num_shared_experts": 2,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-3,
    },
    "biases, no qk norm, one expert per token": {
        "use_qkv_bias": True,
        "use_bias": True,
        "use_qk_norm": False,
        "num_experts_per_tok": 1,
        "norm_topk_prob": False,
        "num_shared_experts": 0,
    },
}


def folder_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors with the names and shapes that the published folders have."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}

    def matrix(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        tensors[name] = torch.randn(rows, columns, generator=generator) * scale / columns**0.5

    def vector(name: str, size: int, around: float, spread: float) -> None:
        tensors[name] = around + spread * torch.randn(size, generator=generator)

    def mlp(name: str, hidden: int) -> None:
        for half in ("gate_proj", "up_proj"):
            matrix(f"{name}{half}.weight", hidden, D)
        matrix(f"{name}down_proj.weight", D, hidden)

    def layer(name: str, sparse: bool) -> None:
        vector(f"{name}input_layernorm.weight", D, 1.0, 0.3)
        vector(f"{name}post_attention_layernorm.weight", D, 1.0, 0.3)
        fused = (HEADS + 2 * KV) * HEAD_DIM
        matrix(f"{name}attention.query_key_value.weight", fused, D, 2.0)
        matrix(f"{name}attention.dense.weight", D, HEADS * HEAD_DIM)
        if config["use_qkv_bias"]:
            vector(f"{name}attention.query_key_value.bias", fused, 0.0, 0.3)
        if config["use_bias"]:
            vector(f"{name}attention.dense.bias", D, 0.0, 0.3)
        if config["use_qk_norm"]:
            vector(f"{name}attention.query_layernorm.weight", HEAD_DIM, 1.0, 0.3)
            vector(f"{name}attention.key_layernorm.weight", HEAD_DIM, 1.0, 0.3)
        if not sparse:
            mlp(f"{name}mlp.", F)
            return
        matrix(f"{name}mlp.gate.weight", E, D)
        vector(f"{name}mlp.gate.expert_bias", E, 0.0, 0.2)
        for expert in range(E):
            mlp(f"{name}mlp.experts.{expert}.", F_EXPERT)
        if config["num_shared_experts"]:
            mlp(f"{name}mlp.shared_experts.", F_EXPERT * config["num_shared_experts"])

    matrix("model.word_embeddings.weight", V, D, 5.0)
    for i in range(config["num_hidden_layers"]):
        layer(f"model.layers.{i}.", sparse=i >= config["first_k_dense_replace"])
    vector("model.norm.weight", D, 1.0, 0.3)
    if not config["tie_word_embeddings"]:
        matrix("lm_head.weight", V, D)
    if config.get("num_nextn_predict_layers"):
        name = f"model.layers.{config['num_hidden_layers']}."
        matrix(f"{name}eh_proj.weight", D, 2 * D)
        for norm in ("enorm", "hnorm", "final_layernorm"):
            vector(f"{name}{norm}.weight", D, 1.0, 0.3)
        layer(name, sparse=True)
    return tensors


def write(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_equal_the_reference(case: str, tmp_path: Path) -> None:
    config = CONFIG | CASES[case]
    tensors = folder_tensors(config)
    write(tmp_path, config, tensors)
    model = load_model(tmp_path)
    reference = reference_bailing.ReferenceBailing(tensors, config)
    ids = torch.randint(0, V, (25,), generator=torch.Generator().manual_seed(5))
    now, following = ids[:-1].tolist(), ids[1:].tolist()
    wanted, wanted_further = reference.logits(now), reference.mtp_logits(now, following)
    assert wanted.std() > 0.3

    trunk = model.trunk(ids[None, :-1])
    further = model.predict_further(trunk, ids[None, 1:])
    for found, want in ((trunk, wanted), (further, wanted_further)):
        torch.testing.assert_close(model.logits(found.hidden_BSD)[0].double(), want, atol=TOLERANCE, rtol=TOLERANCE)

    state = model.new_state()
    parts = [model(ids[None, a:b], state) for a, b in ((0, 9), (9, 10), (10, 16), (16, 24))]
    torch.testing.assert_close(torch.cat(parts, 1)[0].double(), wanted, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_saving_gives_the_published_tensors_back(case: str, tmp_path: Path) -> None:
    config = CONFIG | CASES[case]
    tensors = folder_tensors(config)
    write(tmp_path / "published", config, tensors)
    load_model(tmp_path / "published").save(tmp_path / "saved")
    found = load_file(tmp_path / "saved" / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    same = (config.keys() & saved.keys()) - {"model_type", "torch_dtype"}
    assert {key: saved[key] for key in same} == {key: config[key] for key in same}
    assert saved["model_type"] == "bailing_moe_v2"
    assert "auto_map" not in saved


def test_a_bias_in_bfloat16_is_read_as_float32_and_the_rest_as_stored(tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in folder_tensors(CONFIG).items()}
    write(tmp_path, CONFIG, tensors)
    model = load_model(tmp_path)
    bias = "blocks.1.ffn.router.bias_E"
    assert {name: t.dtype for name, t in model.state_dict().items() if t.dtype != torch.bfloat16}.keys() == {
        bias,
        bias.replace("1", "2"),
        "mtp.block.ffn.router.bias_E",
    }
    assert model.state_dict()[bias].dtype == torch.float32
    assert load_model(tmp_path, torch.float32)(torch.tensor([[1, 2]])).dtype == torch.float32


@pytest.mark.parametrize("said", [0, None])
def test_the_extra_layer_counts_if_its_tensors_are_there(said: int | None, tmp_path: Path) -> None:
    """Published configs leave `num_nextn_predict_layers` out though the tensors are there."""
    config = {**CONFIG, "num_nextn_predict_layers": said}
    write(tmp_path, config, folder_tensors(CONFIG))
    assert load_model(tmp_path).config.mtp_depth == 1
    write(tmp_path, CONFIG, folder_tensors(config))
    assert load_model(tmp_path).config.mtp_depth == 0
