"""ZAYA1's blocks: equal to transformers' own `zaya`, both ways, and each part against what was published."""

from __future__ import annotations

import copy
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from grainline.documents import Attention, DocumentError, GrainlineError, ModelConfig, Moe, Rope
from grainline.models import formats
from grainline.models.build import build
from grainline.models.count import ffn_parameters, parameters
from grainline.models.formats.families.zaya_original import Place, config_of_today, rename
from grainline.models.formats.huggingface import load_model
from grainline.models.formats.huggingface import theirs as in_the_folder
from grainline.models.model import Model
from grainline.models.moe import MoeLayer, step_bias
from grainline.models.moe.depth_averaged import DepthAveragedRouter
from grainline.train.optim.groups import sort_parameters

TOLERANCE = 1e-5
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "moe_intermediate_size": 20,
    "num_experts": 5,
    "router_hidden_size": 16,
    "max_position_embeddings": 256,
    "eos_token_id": 6,
}
CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "biases, longer convolutions, untied, eps 1e-3": {
        "attention_bias": True, "cca_time0": 3, "cca_time1": 4, "tie_word_embeddings": False, "rms_norm_eps": 1e-3,
    },
    "window in all layers, no grouping": {
        "layer_types": ["hybrid_sliding"] * 3, "sliding_window": 7, "num_key_value_heads": 4,
    },
    "all dims rotate, one layer": {
        "rope_parameters": {"hybrid": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}},
        "num_hidden_layers": 1,
    },
}  # fmt: skip


def config(layers: int = 3, **moe: object) -> ModelConfig:
    tables = {
        "experts": 5, "top_k": 1, "expert_hidden": 6, "router": "depth-averaged", "router_hidden": 10, "zero": 1,
        "bias_balanced": True, "normalize": False, **moe,
    }  # fmt: skip
    return ModelConfig(
        family="zaya",
        vocab_size=32,
        hidden_size=16,
        layers=layers,
        ffn_hidden=24,
        norm_eps=1e-5,
        tie_embeddings=True,
        residual_scaling=True,
        attention=Attention(kind="cca", heads=4, kv_heads=2, head_dim=4, rope=Rope(fraction=0.5)),
        moe=Moe.model_validate(tables),
    )


def zaya1() -> ModelConfig:
    """As published."""
    return ModelConfig.load(Path(__file__).parents[2] / "examples/models/zaya1.toml")


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Every parameter and buffer; transformers sets the skip class's bias to −1 again when it loads, so that stays."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith(("norm.weight", "scale", "scale_D", "temp", "temperature_G", "gamma_R")):
                tensor.copy_(1 + 0.3 * noise)
            elif name.endswith(("balancing_biases", "bias_E")):
                tensor.copy_(0.2 * noise)
                tensor[-1] = -1.0
            elif tensor.ndim == 1:
                tensor.copy_(0.2 * noise)
            else:
                tensor.copy_(noise * (1.5 if "embed" in name else tensor.shape[-1] ** -0.5))


def reference(case: str, seed: int = 0) -> Any:
    transformers = pytest.importorskip("transformers")
    transformers.logging.disable_progress_bar()
    model = transformers.ZayaForCausalLM(transformers.ZayaConfig(**copy.deepcopy(SIZES | CASES[case]))).eval()
    randomise(model, seed)
    for layer in model.model.layers:  # so that some tokens skip
        layer.mlp.gate.balancing_biases[-1] = 0.1
    return model


def ids(length: int = 60, seed: int = 1) -> Tensor:
    """Without the padding token, 0, of whose row transformers' look-up has no gradient."""
    return torch.randint(1, SIZES["vocab_size"], (2, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_equal_transformers_both_ways(case: str, tmp_path: Path) -> None:
    theirs = reference(case)
    theirs.save_pretrained(tmp_path / "theirs")
    wanted = theirs(ids()).logits
    assert wanted.std() > 0.3
    ours = load_model(tmp_path / "theirs")
    torch.testing.assert_close(ours(ids()), wanted, atol=TOLERANCE, rtol=TOLERANCE)

    ours.save(tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours", dtype=torch.float32)
    for layer, own in zip(again.model.layers, theirs.model.layers, strict=True):
        # transformers 5.24 loads this buffer and then sets its last value to −1, also of its own folders.
        torch.testing.assert_close(layer.mlp.gate.balancing_biases[:-1], own.mlp.gate.balancing_biases[:-1])
        layer.mlp.gate.balancing_biases.copy_(own.mlp.gate.balancing_biases)
    torch.testing.assert_close(again(ids()).logits, wanted, atol=0, rtol=0)
    assert load_model(tmp_path / "ours").config == ours.config


@pytest.mark.parametrize("case", list(CASES)[:2])
def test_gradients_equal_transformers(case: str, tmp_path: Path) -> None:
    theirs = reference(case)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    picks = torch.randn(2, 60, SIZES["vocab_size"], generator=torch.Generator().manual_seed(5))
    for model, logits in ((ours, ours(ids())), (theirs, theirs(ids()).logits)):
        model.zero_grad()
        (logits * picks).sum().backward()
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    found = in_the_folder(formats.tensors(ours.config), gradients)
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=TOLERANCE, atol=TOLERANCE * float(gradient.abs().max()))
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_decoding_with_a_cache_equals_one_pass(case: str, tmp_path: Path) -> None:
    reference(case).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    state, cuts = model.new_state(), [0, 7, 8, 19, *range(20, 41)]
    parts = [model(ids(40)[:, a:b], state) for a, b in pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids(40)), atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_documents_in_one_sequence_are_as_if_alone() -> None:
    model = build(config()).double()
    randomise(model, 3)
    tokens = torch.randint(0, 32, (1, 12))
    document_BS = torch.tensor([[0] * 5 + [1] * 7])
    found = model(tokens, document_BS=document_BS)
    torch.testing.assert_close(found[:, :5], model(tokens[:, :5]))
    torch.testing.assert_close(found[:, 5:], model(tokens[:, 5:]), rtol=1e-5, atol=1e-5)


def test_residual_scaling_starts_as_plain_addition_bit_for_bit() -> None:
    scaled = build(config(), seed=4)
    plain = Model(scaled.config.model_copy(update={"residual_scaling": False}))
    plain.load_state_dict({k: v for k, v in scaled.state_dict().items() if "scaling" not in k})
    tokens = torch.randint(0, 32, (2, 9))
    assert torch.equal(scaled(tokens), plain(tokens))
    added = {k for k, _ in scaled.named_parameters()} - {k for k, _ in plain.named_parameters()}
    assert len(added) == 2 + 3 * 8


def test_the_stream_is_float32_whatever_is_computed_in() -> None:
    model = build(config())
    model.compute_dtype = torch.bfloat16
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, out: seen.extend([args[0].dtype, out.x_BSD.dtype]))
    assert model(torch.randint(0, 32, (1, 5))).dtype == torch.bfloat16
    assert set(seen) == {torch.float32} == {model.stream_dtype}
    assert build(config().model_copy(update={"residual_scaling": False})).bfloat16().stream_dtype == torch.bfloat16


def route_by_hand(router: DepthAveragedRouter, x: Tensor, before: Tensor | None) -> tuple[dict[int, float], Tensor]:
    """One token, from the published equations: {choice: weight} and r; a skip has no weight."""
    moe = router.moe
    r = router.down.weight @ x + router.down.bias
    if router.gamma_R is not None and before is not None:
        r = r + router.gamma_R * before
    h = r / (r.square().mean() + 1e-5).sqrt() * router.norm.weight
    for layer in (router.first, router.second):
        z = layer.weight @ h + layer.bias
        h = z * 0.5 * (1 + torch.erf(z / 2**0.5))
    p = (router.weight_ED @ h).softmax(0)
    assert router.bias_E is not None
    order = sorted(range(moe.choices), key=lambda e: -float(p[e] + router.bias_E[e]))  # type: ignore[index]
    return {e: float(p[e]) if e < moe.pool else 0.0 for e in order[: moe.top_k]}, r


@pytest.mark.parametrize("moe", [{}, {"top_k": 2}, {"zero": 2, "top_k": 3}])
@torch.no_grad()
def test_routers_equal_a_loop_over_tokens_and_hand_their_stream_on(moe: dict[str, object]) -> None:
    of = config(**moe)
    routers = [DepthAveragedRouter(of, layer).double() for layer in range(3)]
    x_TD = torch.randn(30, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    carry_TC, before = None, [None] * 30
    for number, router in enumerate(routers):
        randomise(router, number)
        assert router.bias_E is not None
        router.bias_E[of.moe.pool :] = 0.1  # type: ignore[union-attr]
        assert (router.gamma_R is None) == (number == 0)
        routed = router(x_TD, 1, True, carry_TC)
        assert routed.report is not None
        carry_TC = routed.carry
        counts = [0] * len(router.bias_E)
        for token in range(30):
            wanted, before[token] = route_by_hand(router, x_TD[token], before[token])
            mine = routed.routing.unit_N == token
            chosen = routed.routing.expert_N[mine].tolist()
            found = dict(zip(chosen, routed.routing.score_N[mine].tolist(), strict=True))
            assert found == pytest.approx(wanted)
            for choice in chosen:
                counts[choice] += 1
        torch.testing.assert_close(carry_TC, torch.stack(before))
        assert routed.report.counts_E.tolist() == counts
        assert sum(counts[of.moe.pool :]) > 0  # type: ignore[union-attr]


def test_tokens_that_skip_come_back_as_nothing() -> None:
    layer = MoeLayer(config(), 0)
    randomise(layer, 0)
    router = layer.router
    assert router.bias_E is not None
    router.bias_E[-1] = 10.0
    x_BSD = torch.randn(1, 6, 16)
    assert torch.equal(layer(x_BSD).out_BSD, torch.zeros(1, 6, 16))
    router.bias_E[-1] = -10.0
    out = layer(x_BSD, report=True)
    assert (out.out_BSD.abs().sum(-1) > 0).all()
    assert out.report is not None
    assert int(out.report.counts_E[-1]) == 0


def test_gradients_reach_the_routers_of_earlier_layers_through_the_stream() -> None:
    model = build(config(), seed=1)
    with torch.no_grad():
        for block in model.blocks[:2]:  # what the first two layers choose doesn't count
            block.ffn.experts.w2_EDF.zero_()
    model(torch.randint(0, 32, (1, 8))).square().sum().backward()
    for layer in (0, 1):
        assert model.blocks[layer].ffn.router.down.weight.grad.abs().max() > 0
        assert model.blocks[layer].ffn.router.weight_ED.grad.abs().max() == 0


def test_without_the_stream_of_before_layers_route_apart() -> None:
    model = build(config(), seed=1)
    with torch.no_grad():
        for block in model.blocks[1:]:
            block.ffn.router.gamma_R.zero_()
    x_TD = torch.randn(7, 16)
    router = model.blocks[1].ffn.router
    alone, after = (router(x_TD, 1, False, carry) for carry in (None, torch.randn(7, 10)))
    assert torch.equal(alone.routing.score_N, after.routing.score_N)


def test_it_starts_as_published() -> None:
    model = build(config(), dtype=torch.bfloat16)
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("bias_E"):
            assert tensor.dtype == torch.float32
            assert tensor.tolist() == [0.0] * 5 + [-1.0]
        elif name.endswith(("gamma_R", "scale_D")):
            assert tensor.eq(1).all(), name
        elif name.endswith(("temperature_G", "bias_D", "bias_C", ".bias")):
            assert tensor.eq(0).all(), name
    warm = config().attention.model_copy(update={"key_temperature": 1.5})
    assert build(config().model_copy(update={"attention": warm})).blocks[0].attention.temperature_G.eq(1.5).all()


def test_balance_lets_the_skip_class_in_when_nobody_takes_it() -> None:
    model = build(config())
    step_bias(model, torch.tensor([[10, 10, 10, 10, 10, 0]] * 3), 0.1)
    bias_E = model.blocks[0].ffn.router.bias_E
    assert float(bias_E[-1]) > -1
    assert bias_E[:-1].lt(0).all()


def test_kernels_of_channels_scales_and_temperatures_have_no_decay_and_matrices_of_heads_are_orthogonalised() -> None:
    shapes = {name: tuple(p.shape) for name, p in build(config()).named_parameters()}
    groups = sort_parameters(shapes.items(), "muon")
    for end in ("depthwise_CK", "temperature_G", "gamma_R", "scale_D", "bias_D", "bias_C", "norm.weight"):
        names = [name for name in shapes if name.endswith(end)]
        assert names
        assert set(names) <= set(groups.vectors), end
    assert "blocks.0.attention.grouped_Ahx" in groups.matrices
    assert {"blocks.0.ffn.router.first.weight", "blocks.0.ffn.router.down.weight"} <= set(groups.matrices)
    assert "blocks.0.ffn.router.weight_ED" in groups.tables


def test_counts_are_those_published() -> None:
    """8.3B and 760M without embeddings (arXiv 2511.17127), and what the parts of a layer have."""
    of = zaya1()
    count = parameters(of)
    assert (count.total - count.embedding) / 1e9 == pytest.approx(8.303, abs=5e-4)
    assert (count.active - count.embedding) / 1e6 == pytest.approx(753.6, abs=0.05)
    total, active = ffn_parameters(of, 1)
    assert (total - active) / 15 == 3 * 2048 * 2048
    with torch.device("meta"):
        model = Model(of)
    assert sum(p.numel() for p in model.parameters()) == count.total
    attention = sum(p.numel() for p in model.blocks[1].attention.parameters())
    router = sum(p.numel() for p in model.blocks[1].ffn.router.parameters())
    assert attention / 1e6 == pytest.approx(5.576, abs=5e-4)
    assert router / 1e6 == pytest.approx(0.661, abs=5e-4)


@pytest.mark.parametrize("layers", [1, 3])
def test_small_models_have_as_many_parameters_as_counted(layers: int) -> None:
    of = config(layers)
    assert sum(p.numel() for p in build(of).parameters()) == parameters(of).total


def original_names(layers: int, experts: int) -> list[str]:
    """Of a folder of alternating layers, as they are published."""
    scales = ("hidden_states_scale", "hidden_states_bias", "residual_scale", "residual_bias")
    names = ["model.embed_tokens.weight", "model.final_norm.weight", *(f"model.res_scale.{s}" for s in scales)]
    for i in range(layers):
        prefix = f"model.layers.{i}."
        names += [f"{prefix}input_norm.weight", *(f"{prefix}res_scale.{s}" for s in scales[: 2 if i == 0 else 4])]
        if i % 2 == 0:
            inner = [f"{n}.weight" for n in ("linear_q", "linear_k", "val_proj1", "val_proj2")]
            inner += [f"conv_qk.{n}.{kind}" for n in (0, 1) for kind in ("weight", "bias")]
            names += [f"{prefix}self_attn.qkv.{n}" for n in (*inner, "temp")] + [f"{prefix}self_attn.o_proj.weight"]
            continue
        inner = ["down_proj.weight", "down_proj.bias", "rmsnorm_eda.weight", "balancing_biases"]
        inner += [f"router_mlp.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")] + ["router_mlp.4.weight"]
        names += [f"{prefix}zaya_block.router.{n}" for n in inner + ["router_states_scale"] * (i > 1)]
        for e in range(experts):
            names += [f"{prefix}zaya_block.experts.local_experts.{e}.linear_fc{n}.weight" for n in (1, 2)]
    return names


def test_names_of_alternating_layers_become_those_of_today() -> None:
    of = config(layers=3)
    found = rename(original_names(6, 5), 6)
    wanted = {piece.source for entry in formats.tensors(of).entries for piece in entry.pieces}
    assert {place.name for place in found.values()} == wanted
    assert len(set(found.values())) == len(found)  # so there is a way back
    # Section 3 of the conversion: a scaling belongs to what comes before it.
    assert found["model.layers.0.res_scale.hidden_states_bias"] == Place("model.input_hidden_states_bias")
    after = "model.layers.0.post_{}_residual_scale.residual_scale"
    assert found["model.layers.1.res_scale.residual_scale"] == Place(after.format("attention"))
    assert found["model.layers.2.res_scale.residual_scale"] == Place(after.format("mlp"))
    last = "model.layers.2.post_mlp_residual_scale.residual_bias"
    assert found["model.res_scale.residual_bias"] == Place(last)
    stacked = "model.layers.1.mlp.experts.down_proj"
    assert found["model.layers.3.zaya_block.experts.local_experts.4.linear_fc2.weight"] == Place(stacked, 4)


@pytest.mark.parametrize(
    ("names", "layers", "message"),
    [
        ([], 5, "an even number"),
        (["model.layers.1.self_attn.o_proj.weight"], 4, "not a tensor of an original"),
        (["model.layers.4.input_norm.weight"], 4, "of 4 layers"),
        (["model.layers.2.zaya_block.experts.local_experts.0.linear_fc1.weight"], 4, "not a tensor"),
    ],
)
def test_names_that_are_not_original_are_refused(names: list[str], layers: int, message: str) -> None:
    with pytest.raises(GrainlineError, match=message):
        rename(names, layers)


def test_the_config_of_alternating_layers_becomes_that_of_today() -> None:
    original = {
        "num_hidden_layers": 80, "vocab_size": 262_272, "hidden_size": 2048, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 128, "num_experts": 16, "ffn_hidden_size": 4096, "moe_router_topk": 1,
        "zaya_mlp_expansion": 256, "norm_epsilon": 1e-5, "rope_theta": 5e6, "max_position_embeddings": 131_072,
        "tie_word_embeddings": True, "bos_token_id": 2, "eos_token_id": 106, "pad_token_id": 0,
        "cca": True, "zaya_use_eda": True, "activation_func": "swiglu",
    }  # fmt: skip
    assert formats.config_from_hf(config_of_today(original)) == zaya1()
    narrow = config_of_today(original | {"swa_layers": [63, 0] * 40})
    assert formats.config_from_hf(narrow).attention.window == 64
    for tables, message in (
        ({"num_hidden_layers": 81}, "must be even"),
        ({"ffn_hidden_size": None}, "ffn_hidden_size: is required"),
    ):
        with pytest.raises(DocumentError, match=message):
            config_of_today(original | tables)


HF = {"model_type": "zaya", **SIZES}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"layer_types": ["hybrid", "hybrid_sliding", "hybrid"], "sliding_window": 5}, "layer_types: .* same window"),
        ({"layer_types": ["mamba"] * 3}, "known are 'hybrid'"),
        ({"layer_types": ["hybrid_sliding"] * 3}, "sliding_window: is required"),
        ({"lm_head_bias": True}, "lm_head_bias: True is not supported"),
        ({"zaya_use_eda": True}, "alternating layers; convert the folder first"),
        ({"num_key_value_heads": 3}, "heads 4 must be a multiple of kv_heads 3"),
    ],
)
def test_configs_that_cannot_be_computed_are_refused(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        formats.config_from_hf(HF | tables)


def test_a_model_that_the_folder_cannot_hold_is_refused() -> None:
    for of, message in (
        (config(top_k=2), "routes each token to one expert, not 2"),
        (config(router="softmax-topk", router_hidden=None), "set attention.kind 'cca' and moe.router"),
        (config().model_copy(update={"residual_scaling": False}), "residual_scaling: family 'zaya' can't say False"),
    ):
        with pytest.raises(GrainlineError, match=message):
            formats.config_to_hf(of)


@torch.no_grad()
def test_what_the_folder_cannot_hold_is_saved_in_our_own_layout(tmp_path: Path) -> None:
    model = build(config(top_k=2))
    randomise(model, 1)
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert again.config.family == "grainline"
    tokens = torch.randint(0, 32, (2, 7))
    assert torch.equal(again(tokens), model(tokens))


def test_scaling_and_mtp_are_refused_together() -> None:
    tables = json.loads(json.dumps(config().tables())) | {"mtp_depth": 1}
    with pytest.raises(DocumentError, match="residual_scaling doesn't go with mtp_depth"):
        ModelConfig.parse(tables, "m.toml")
