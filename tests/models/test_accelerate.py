"""Models of transformers with our experts: outputs, gradients and files as without them, and refusals by name."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()

import grainline as gl  # noqa: E402
from grainline import kernels  # noqa: E402
from grainline.documents import GrainlineError  # noqa: E402

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MOE = {"moe_intermediate_size": 20, "num_experts": 8, "num_experts_per_tok": 3}
LATENT = {
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
    "v_head_dim": 12,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_moe": ("Qwen3Moe", {**MOE, "head_dim": 8}),
    "qwen2_moe": ("Qwen2Moe", {**MOE, "shared_expert_intermediate_size": 16}),
    "mixtral": ("Mixtral", {"num_local_experts": 6, "num_experts_per_tok": 2}),
    "olmoe": ("Olmoe", {"num_experts": 8, "num_experts_per_tok": 3}),
    "deepseek_v3": ("DeepseekV3", LATENT),
    "bailing_hybrid": ("BailingHybrid", {**LATENT, "pad_token_id": 0}),
    "glm4_moe": (
        "Glm4Moe",
        {
            "moe_intermediate_size": 20,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "first_k_dense_replace": 1,
            "head_dim": 8,
        },
    ),
}


def model_of(name: str, **sizes: Any) -> Any:
    prefix, own = MODELS.get(name, (name, {}))
    config = getattr(transformers, f"{prefix}Config")(**{**SIZES, **own, **sizes})
    torch.manual_seed(0)
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model.eval()


def outputs_and_gradients(model: Any, implementation: str | None = None) -> list[torch.Tensor]:
    if implementation is not None:
        model.set_experts_implementation(implementation)
    model.zero_grad()
    ids_BS = torch.randint(0, SIZES["vocab_size"], (2, 21), generator=torch.Generator().manual_seed(1))
    logits = model(ids_BS, use_cache=False).logits
    logits.float().square().mean().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def close(ours: list[torch.Tensor], truth: list[torch.Tensor], tolerance: float) -> None:
    assert len(ours) == len(truth)
    for mine, theirs in zip(ours, truth, strict=True):
        assert mine.dtype == theirs.dtype
        error = (mine.double() - theirs.double()).norm() / theirs.double().norm().clamp_min(1e-6)
        assert error < tolerance


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_the_same(name: str) -> None:
    model = model_of(name)
    truth = outputs_and_gradients(model, "eager")
    own = dict(model.named_parameters())
    found = gl.accelerate(model)
    assert found.replaced
    assert all(kind.endswith("Experts") for kind in found.replaced.values())
    assert set(found.replaced) == {n for n, m in model.named_modules() if type(m).__name__.endswith("Experts")}
    close(outputs_and_gradients(model), truth, 1e-5)
    assert all(parameter is own[key] for key, parameter in model.named_parameters())


def test_bfloat16_is_as_close_to_float32_as_transformers_own() -> None:
    model = model_of("qwen3_moe")
    truth = outputs_and_gradients(model, "eager")
    narrow = model.bfloat16()
    theirs = outputs_and_gradients(narrow, "eager")
    gl.accelerate(narrow)
    ours = outputs_and_gradients(narrow)
    for mine, other, right in zip(ours, theirs, truth, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - right).norm() <= 1.5 * (other.float() - right).norm() + 1e-3 * right.norm()


def test_autocast_computes_experts_in_its_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("mixtral")
    gl.accelerate(model)
    seen: list[torch.dtype] = []
    mixture = kernels.expert_mixture

    def spy(x_TD: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(x_TD.dtype)
        return mixture(x_TD, *rest)

    monkeypatch.setattr(kernels, "expert_mixture", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = outputs_and_gradients(model)
    assert set(seen) == {torch.bfloat16}
    assert all(gradient.dtype == torch.float32 for gradient in narrow[1:])


def test_our_op_is_what_runs_and_undo_takes_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("qwen3_moe")
    before = model.config._experts_implementation
    calls: list[int] = []
    mixture = kernels.expert_mixture
    monkeypatch.setattr(kernels, "expert_mixture", lambda *a: calls.append(1) or mixture(*a))
    found = gl.accelerate(model)
    outputs_and_gradients(model)
    assert len(calls) == len(found.replaced) == SIZES["num_hidden_layers"]
    found.undo()
    outputs_and_gradients(model)
    assert len(calls) == len(found.replaced)
    assert model.config._experts_implementation == before


def test_a_model_is_copied_saved_and_read_as_before(tmp_path: Path) -> None:
    model = model_of("qwen3_moe")
    model.set_experts_implementation("eager")
    gl.accelerate(model)
    truth = outputs_and_gradients(model)
    close(outputs_and_gradients(copy.deepcopy(model)), truth, 1e-6)
    model.save_pretrained(tmp_path)
    assert "grainline" not in (tmp_path / "config.json").read_text()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config._experts_implementation != "grainline"
    close(outputs_and_gradients(again.eval(), "eager"), truth, 1e-5)


def test_generation_is_the_same() -> None:
    model = model_of("mixtral")
    ids_BS = torch.tensor([[1, 5, 9]])
    keys = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    model.set_experts_implementation("eager")
    truth = model.generate(ids_BS, **keys)
    gl.accelerate(model)
    assert torch.equal(model.generate(ids_BS, **keys), truth)


def test_a_model_compiles_with_our_op_in_it() -> None:
    model = model_of("qwen3_moe")
    gl.accelerate(model)
    truth = outputs_and_gradients(model)
    ids_BS = torch.randint(0, SIZES["vocab_size"], (2, 21), generator=torch.Generator().manual_seed(1))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids_BS, use_cache=False).logits, truth[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sizes", "said"),
    [
        (
            "GptOss",
            {"num_local_experts": 4, "head_dim": 8},
            r"GptOssForCausalLM: '.*experts' \(GptOssExperts\) has biases",
        ),
        ("mixtral", {"hidden_act": "gelu"}, r"\(MixtralExperts\) has another gate than silu"),
        ("Llama", {}, "LlamaForCausalLM: it has no stacked experts"),
    ],
)
def test_what_is_not_supported_is_refused_by_name_and_left_alone(name: str, sizes: dict[str, Any], said: str) -> None:
    model = model_of(name, **sizes)
    before = model.config._experts_implementation
    with pytest.raises(GrainlineError, match=said) as refused:
        gl.accelerate(model)
    assert "Supported are models of transformers 5" in str(refused.value)
    assert model.config._experts_implementation == before


def test_other_modules_are_refused() -> None:
    with pytest.raises(GrainlineError, match="Linear is not a model of transformers"):
        gl.accelerate(torch.nn.Linear(2, 2))
