"""Logits equal those of transformers on small random checkpoints: we read what it saves, and it reads what we save."""

from __future__ import annotations

import copy
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()

from grainline.documents import read_tables  # noqa: E402
from grainline.models.build import build  # noqa: E402
from grainline.models.formats import config_from_hf  # noqa: E402
from grainline.models.formats.huggingface import load_model  # noqa: E402

TOLERANCE = 1e-5  # of logits whose spread is about 1
LENGTH = 150  # past the 32 positions that the stretched contexts start from

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
MLA = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 20,
    "n_routed_experts": 16,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 24,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "num_mtp_layers": 0,
}
QWEN_MOE = {"head_dim": 12, "moe_intermediate_size": 20, "num_experts": 8, "num_experts_per_tok": 3}


def yarn(**values: float) -> dict[str, Any]:
    return {
        "rope_type": "yarn",
        "rope_theta": 5000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        **values,
    }


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-moe": ("Qwen3Moe", QWEN_MOE),
    "qwen3-moe normalised, some layers dense, biases": (
        "Qwen3Moe",
        QWEN_MOE | {"norm_topk_prob": True, "mlp_only_layers": [0], "decoder_sparse_step": 3, "attention_bias": True},
    ),
    "qwen3-moe yarn, eps 1e-3": (
        "Qwen3Moe",
        QWEN_MOE | {"rms_norm_eps": 1e-3, "rope_parameters": yarn(attention_factor=1.3, beta_fast=16.0)},
    ),
    "qwen3-moe window, tied, no grouping of heads": (
        "Qwen3Moe",
        QWEN_MOE
        | {"use_sliding_window": True, "sliding_window": 17, "tie_word_embeddings": True, "num_key_value_heads": 4},
    ),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "mixtral window, linear rope, top 3 of 8": (
        "Mixtral",
        {
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "sliding_window": 9,
            "head_dim": 12,
            "rope_parameters": LINEAR,
        },
    ),
    "deepseek-v3": ("DeepseekV3", MLA),
    "deepseek-v3 without q_lora, one group, not normalised": (
        "DeepseekV3",
        MLA | {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "norm_topk_prob": False, "n_shared_experts": 2},
    ),
    "deepseek-v3 yarn with mscale, eps 1e-4": (
        "DeepseekV3",
        MLA | {"rope_parameters": yarn(mscale=0.7, mscale_all_dim=1.3), "rms_norm_eps": 1e-4},
    ),
    "deepseek-v3 yarn, not interleaved, biases": (
        "DeepseekV3",
        MLA | {"rope_parameters": yarn(mscale_all_dim=1.0), "rope_interleave": False, "attention_bias": True},
    ),
    "llama": ("Llama", {}),
    "llama llama3 rope, biases, tied, eps 1e-3": (
        "Llama",
        {
            "rms_norm_eps": 1e-3,
            "rope_parameters": LLAMA3,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "head_dim": 20,
        },
    ),
    "llama yarn with mscale": ("Llama", {"rope_parameters": yarn(mscale=0.7, mscale_all_dim=1.3)}),
    "qwen3": ("Qwen3", {"head_dim": 12}),
    "qwen3 yarn, window in all layers, biases": (
        "Qwen3",
        {
            "head_dim": 12,
            "rope_parameters": yarn(),
            "use_sliding_window": True,
            "sliding_window": 40,
            "max_window_layers": 0,
            "attention_bias": True,
        },
    ),
}


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every parameter and saved buffer, gains and biases too: zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if "norm" in name and tensor.ndim == 1 and not name.endswith("bias"):
                tensor.copy_(1 + 0.3 * noise)
            elif tensor.ndim == 1:
                tensor.copy_(0.2 * noise)
            else:
                tensor.copy_(noise * (1.5 if "embed" in name else tensor.shape[-1] ** -0.5))


def reference(architecture: str, extra: dict[str, Any], seed: int = 0) -> Any:
    config = getattr(transformers, f"{architecture}Config")(**copy.deepcopy(SIZES | extra))
    model = getattr(transformers, f"{architecture}ForCausalLM")(config).eval()
    randomise(model, seed)
    return model


def ids(seed: int = 1, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, SIZES["vocab_size"], (2, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_equal_transformers_both_ways(case: str, tmp_path: Path) -> None:
    theirs = reference(*CASES[case])
    theirs.save_pretrained(tmp_path / "theirs")
    wanted = theirs(ids()).logits
    assert wanted.std() > 0.3
    ours = load_model(tmp_path / "theirs")
    torch.testing.assert_close(ours(ids()), wanted, atol=TOLERANCE, rtol=TOLERANCE)

    ours.save(tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    torch.testing.assert_close(again(ids()).logits, wanted, atol=0, rtol=0)


@pytest.mark.parametrize(
    "case",
    ["qwen3-moe window, tied, no grouping of heads", "mixtral", "deepseek-v3 yarn with mscale, eps 1e-4", "llama"],
)
@torch.no_grad()
def test_decoding_with_a_cache_equals_one_pass(case: str, tmp_path: Path) -> None:
    reference(*CASES[case]).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    whole = model(ids(length=40))
    state = model.new_state()
    cuts = [0, 7, 19, *range(20, 41)]
    parts = [model(ids(length=40)[:, a:b], state) for a, b in pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_multi_token_prediction_of_deepseek_equals_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.modeling_layers import MtpModel

    case = SIZES | MLA | {"num_mtp_layers": 1, "rope_parameters": yarn(mscale=1.0, mscale_all_dim=1.0)}
    reference("DeepseekV3", case).save_pretrained(tmp_path / "trunk")  # without the tensors of layer L, as they do
    ours = build(config_from_hf(read_tables(tmp_path / "trunk" / "config.json")))
    randomise(ours, seed=3)
    ours.save(tmp_path / "ours")

    # transformers looks for the layers that the class says it ignores, and those are the published model's.
    monkeypatch.setattr(transformers.DeepseekV3ForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"layers\.3\."])
    trunk = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    further = MtpModel.from_pretrained(trunk)
    hidden = trunk.model(ids()[:, :-1]).last_hidden_state
    position = torch.arange(1, LENGTH).unsqueeze(0)
    wanted = trunk.lm_head(further.forward_layer(0, hidden, position, None, input_ids=ids()[:, 1:]))

    found = ours.predict_further(ours.trunk(ids()[:, :-1]), ids()[:, 1:])
    assert wanted.std() > 0.3
    torch.testing.assert_close(ours.logits(found.hidden_BSD), wanted, atol=TOLERANCE, rtol=TOLERANCE)
