"""BigMac (arXiv 2502.16927): experts behind a bottleneck against the same experts with projections of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.utils.flop_counter import FlopCounterMode

from grainline import kernels
from grainline.documents import Attention, DocumentError, GrainlineError, ModelConfig, Moe
from grainline.models.build import build
from grainline.models.count import expert_parameters, parameters
from grainline.models.dial import bottleneck_twin, config_for_depth, dense_twin
from grainline.models.moe import MoeLayer
from grainline.models.moe.bottleneck import check_latent
from grainline.models.moe.seams import Routing

D, R, TOKENS = 16, 4, 60


def config(**moe: object) -> ModelConfig:
    wanted = {"experts": 6, "top_k": 3, "expert_hidden": 12, "expert": "bottleneck", "latent": R}
    return ModelConfig(
        vocab_size=32,
        hidden_size=D,
        layers=2,
        ffn_hidden=24,
        attention=Attention(heads=2, head_dim=8),
        moe=Moe.model_validate(wanted | {"router": "softmax-topk"} | moe),
    )


def layer_of(c: ModelConfig, seed: int = 0) -> MoeLayer:
    layer, draw = MoeLayer(c, 0), torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    return layer


def rows(seed: int = 1) -> Tensor:
    return torch.randn(2, TOKENS // 2, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def projected_in_each_expert(layer: MoeLayer, x_TD: Tensor) -> Tensor:
    """Σ p · B·E(A·x): the projections inside each expert and for each choice, a token at a time."""
    assert layer.bottleneck is not None
    assert layer.experts is not None
    routing = layer.router(x_TD, 1, False).routing
    out = []
    for t, x_D in enumerate(x_TD):
        y_D = torch.zeros_like(x_D)
        for i in (routing.unit_N == t).nonzero().flatten().tolist():
            e = int(routing.expert_N[i])
            x_R = layer.bottleneck.down.weight @ x_D
            gate_F, up_F = layer.experts.w13_E2FD[e] @ x_R
            y_D = y_D + routing.score_N[i] * (
                layer.bottleneck.up.weight @ (layer.experts.w2_EDF[e] @ (silu(gate_F) * up_F))
            )
        out.append(y_D)
    return torch.stack(out)


def test_projecting_once_a_token_gives_what_projecting_in_each_expert_does_with_every_gradient() -> None:
    layer, x_BSD = layer_of(config()), rows().requires_grad_()
    leaves = [x_BSD, *layer.parameters()]
    out_TD, truth_TD = layer(x_BSD).out_BSD.flatten(0, 1), projected_in_each_expert(layer, x_BSD.flatten(0, 1))
    torch.testing.assert_close(out_TD, truth_TD, rtol=1e-12, atol=1e-9)
    weight_TD = torch.randn(out_TD.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((out_TD * weight_TD).sum(), leaves)
    truth = torch.autograd.grad((truth_TD * weight_TD).sum(), leaves)
    for name, a, b in zip(["x", *dict(layer.named_parameters())], found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-8, msg=name)


def test_as_wide_as_the_model_and_with_identities_it_is_the_plain_layer() -> None:
    behind = layer_of(config(latent=D, shared_experts=1))
    plain = MoeLayer(config(expert="swiglu", latent=None, shared_experts=1), 0)
    assert behind.bottleneck is not None
    for projection in (behind.bottleneck.down, behind.bottleneck.up):
        projection.weight.data = torch.eye(D, dtype=torch.float64)
    state = {name: t.detach() for name, t in behind.state_dict().items() if not name.startswith("bottleneck")}
    plain.load_state_dict(state, assign=True)
    assert torch.equal(behind(rows()).out_BSD, plain(rows()).out_BSD)


def test_rows_travel_narrow_and_projections_run_once_a_token() -> None:
    c = config()
    layer, seen = layer_of(c), []
    local = layer.dispatcher

    def watching(x_TR: Tensor, routing: Routing, experts: object) -> Tensor:
        out_TR: Tensor = local(x_TR, routing, experts)
        seen.append((x_TR.shape, len(routing.unit_N), out_TR.shape))
        return out_TR

    layer.dispatcher = watching
    visible = kernels.use({"expert_mixture": "sonic"})  # torch doesn't see into compiled kernels
    with visible, FlopCounterMode(display=False) as counter:
        layer(rows())
    assert seen == [((TOKENS, R), 3 * TOKENS, (TOKENS, R))]
    experts = 2 * 3 * TOKENS * expert_parameters(c)
    router, projections = 2 * TOKENS * D * 6, 2 * 2 * TOKENS * D * R
    assert counter.get_total_flops() == experts + router + projections


def test_what_routed_experts_give_has_the_rank_of_the_bottleneck_and_a_shared_one_restores_it() -> None:
    x_BSD = rows()
    narrow = layer_of(config())(x_BSD).out_BSD.flatten(0, 1)
    whole = layer_of(config(shared_experts=1))(x_BSD).out_BSD.flatten(0, 1)
    assert int(torch.linalg.matrix_rank(narrow)) == R
    assert int(torch.linalg.matrix_rank(whole)) == D


def test_the_twin_has_equal_experts_and_two_projections_more() -> None:
    plain = config_for_depth(4, 300, 64)
    for latent in (16, 32, 64):
        twin = bottleneck_twin(plain, latent)
        assert expert_parameters(twin) == expert_parameters(plain)
        more = 2 * plain.hidden_size * latent
        a, b = parameters(plain), parameters(twin)
        assert (b.total - a.total, b.mtp - a.mtp) == (3 * more, more)
        assert b.active - a.active == 3 * more
        assert b.total + b.mtp == sum(p.numel() for p in build(twin).parameters())


def test_the_way_up_begins_as_a_projection_into_the_stream() -> None:
    c = config_for_depth(6, 300, 64)
    named = dict(build(bottleneck_twin(c, 48)).named_parameters())
    small = c.init_std * (2 * c.layers) ** -0.5
    for name, std in (
        ("bottleneck.down.weight", c.init_std),
        ("bottleneck.up.weight", small),
        ("experts.w2_EDF", c.init_std),
    ):
        assert float(named[f"blocks.1.ffn.{name}"].detach().std()) == pytest.approx(std, rel=0.05), name
    assert float(build(c).blocks[1].ffn.experts.w2_EDF.detach().std()) == pytest.approx(small, rel=0.05)


@pytest.mark.parametrize(
    ("latent", "said"),
    [
        (0, "saves nothing"),
        (128, "saves nothing: name fewer than hidden_size 128"),
        (50, "which don.t divide F·D. The nearest that fits is 64"),
    ],
)
def test_a_twin_that_cannot_be(latent: int, said: str) -> None:
    with pytest.raises(GrainlineError, match=said):
        bottleneck_twin(config_for_depth(4, 300, 64), latent)


def test_twins_are_of_models_with_plain_experts() -> None:
    for c in (dense_twin(config_for_depth(4, 300, 64)), config()):
        with pytest.raises(GrainlineError, match="Only a model with plain experts"):
            bottleneck_twin(c, 4)


@pytest.mark.parametrize(
    ("moe", "said"),
    [
        ({"latent": None}, "expert 'bottleneck' also needs latent"),
        ({"expert": "swiglu"}, "latent goes with expert 'bottleneck', not 'swiglu'"),
        ({"latent": 0}, "moe.latent: must be greater than 0"),
        ({"latent": 2.5}, "moe.latent: must be a whole number"),
    ],
)
def test_half_a_bottleneck_is_refused(moe: dict[str, object], said: str) -> None:
    tables = config().tables()
    changed = {key: value for key, value in {**tables["moe"], **moe}.items() if value is not None}
    with pytest.raises(DocumentError, match=said):
        ModelConfig.parse({**tables, "moe": changed}, "m.toml")


def test_a_bottleneck_that_is_none_is_remarked_on() -> None:
    assert check_latent(config()) is None
    assert check_latent(config(expert="swiglu", latent=None)) is None
    for latent in (D, 3 * D):
        said = check_latent(config(latent=latent)) or ""
        assert said.startswith(f"moe.latent {latent} is no less than the model's {D} dims")
        assert "4 would be BigMac's" in said
