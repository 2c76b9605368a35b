"""Every router with every set of features that the document allows, against a loop over tokens; others are refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

sys.path.insert(0, str(Path(__file__).parent))
from expert_cases import CASES, NEEDS, WITH, allowed, routed

from grainline.documents import DocumentError, GrainlineError, ModelConfig
from grainline.documents.moe import REFUSED, Feature, RouterKind
from grainline.models.build import build
from grainline.models.generate import Sampling, generate
from grainline.models.moe import AT_REST, MoeLayer, Moment, Routing, build_experts
from grainline.models.moe.experts import SwigluExperts
from grainline.models.moe.routers import ROUTERS

D, B, S = 10, 2, 8
TRAINING = Moment(True, 0.4, 7)


def config(kind: RouterKind, features: tuple[Feature, ...]) -> ModelConfig:
    moe = {"experts": 8, "top_k": 3, "expert_hidden": 6, "shared_experts": 1, "scale": 1.5, "router": kind}
    moe |= NEEDS.get(kind, {})
    for feature in features:
        moe |= WITH[feature]
    attention = {"heads": 1, "head_dim": 8}
    sizes = {"vocab_size": 16, "hidden_size": D, "layers": 2, "ffn_hidden": 8}
    return ModelConfig.parse({**sizes, "attention": attention, "moe": moe}, "pairs.toml")


def randomised(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.6


def by_hand(layer: MoeLayer, x_TD: Tensor, routing: Routing, experts: SwigluExperts) -> Tensor:
    """Σ score · expert(x), one choice of one token at a time."""
    moe = layer.router.moe  # type: ignore[attr-defined]
    pool, first_copy = moe.pool, moe.pool + moe.zero
    first_constant = first_copy + moe.copy_experts
    out = []
    for t, x_D in enumerate(x_TD):
        w13_2FD = layer.shared.w13_2FD  # type: ignore[union-attr]
        y_D = layer.shared.w2_DF @ (silu(w13_2FD[0] @ x_D) * (w13_2FD[1] @ x_D))  # type: ignore[union-attr]
        for i in (routing.unit_N == t).nonzero().flatten().tolist():
            e, score = int(routing.expert_N[i]), routing.score_N[i]
            if e < pool:
                h = x_D if layer.bottleneck is None else layer.bottleneck.down.weight @ x_D
                gate, up = experts.w13_E2FD[e] @ h
                h = experts.w2_EDF[e] @ (silu(gate) * up)
                y_D = y_D + score * (h if layer.bottleneck is None else layer.bottleneck.up.weight @ h)
            elif first_copy <= e < first_constant:
                y_D = y_D + score * x_D
            elif e >= first_constant:
                j = e - first_constant
                a, b = (layer.costless.weight_J2D[j] @ x_D).softmax(-1)  # type: ignore[union-attr, index]
                y_D = y_D + score * (a * x_D + b * layer.costless.vector_JD[j])  # type: ignore[union-attr, index]
        out.append(y_D)
    return torch.stack(out)


@pytest.mark.parametrize("moment", [AT_REST, TRAINING], ids=["at rest", "training"])
@pytest.mark.parametrize(
    ("kind", "features"), CASES, ids=lambda of: of if isinstance(of, str) else "+".join(of) or "plain"
)
def test_a_layer_is_its_choices_one_by_one_with_every_gradient(
    kind: RouterKind, features: tuple[Feature, ...], moment: Moment
) -> None:
    made = config(kind, features)
    assert made.moe is not None
    layer = MoeLayer(made, 1)
    bank = build_experts(made) if made.moe.reuse > 1 else None
    experts = bank or layer.experts
    assert experts is not None
    randomised(layer, 3)
    randomised(experts, 4)
    draw = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    x_BSD = random(S, B, D).transpose(0, 1).requires_grad_()  # not contiguous
    carry_TC = random(B * S, made.moe.carry_width).requires_grad_() if made.moe.carry_width else None
    of_out_BSD, of_carry = random(B, S, D), random(B * S, made.moe.carry_width)

    def objective(out_BSD: Tensor, carry: Tensor | None, report: Any) -> Tensor:
        total = (out_BSD * of_out_BSD).sum() + 0.3 * report.z + 0.2 * report.balance
        return total if carry is None else total + (carry * of_carry).sum()

    out_BSD, carry, report = layer(x_BSD, True, carry_TC, moment, bank)
    found = objective(out_BSD, carry, report)
    routed = layer.router(x_BSD.flatten(0, 1), B, True, carry_TC, moment)
    truth_BSD = by_hand(layer, x_BSD.flatten(0, 1), routed.routing, experts).view(B, S, D)
    truth = objective(truth_BSD, routed.carry, routed.report)
    torch.testing.assert_close(out_BSD, truth_BSD, rtol=1e-10, atol=1e-10)

    named = dict(layer.named_parameters()) | {f"bank.{name}": p for name, p in experts.named_parameters()}
    named["x"] = x_BSD
    if carry_TC is not None:
        named["carry"] = carry_TC
    grads = torch.autograd.grad(found, list(named.values()), allow_unused=True)
    wanted = torch.autograd.grad(truth, list(named.values()), allow_unused=True)
    for name, a, b in zip(named, grads, wanted, strict=True):
        zero = torch.zeros_like(named[name])
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=1e-9, atol=1e-9, msg=name)
    assert wanted[list(named).index("router.weight_ED")].abs().sum() > 0  # type: ignore[union-attr]
    assert torch.equal(routed.routing.counts_E, torch.bincount(routed.routing.expert_N, minlength=made.moe.choices))
    if "costless" in features and moment is AT_REST:
        assert (routed.routing.expert_N >= made.moe.pool).any()


def test_every_router_of_the_documents_is_there() -> None:
    assert set(ROUTERS) == set(get_args(RouterKind))
    assert WITH.keys() == set(get_args(Feature))
    assert all(kind in ROUTERS and feature in WITH for kind, feature in REFUSED)


def test_the_page_has_the_same_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "experts.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    head = next(row for row in rows if row[1:] == list(get_args(Feature)))
    table = rows[rows.index(head) + 2 :][: len(ROUTERS)]
    assert [row[0] for row in table] == list(get_args(RouterKind))
    for kind, *cells in table:
        assert cells == ["no" if (kind, feature) in REFUSED else "yes" for feature in head[1:]], kind


@pytest.mark.parametrize(("kind", "feature"), sorted(REFUSED))
def test_what_does_not_go_together_is_refused_with_the_reason(kind: RouterKind, feature: Feature) -> None:
    with pytest.raises(DocumentError) as caught:
        config(kind, (feature,))
    said = str(caught.value)
    assert f"router '{kind}' doesn't go with {feature}" in said
    assert REFUSED[kind, feature] in said
    assert "pairs.toml" in said


@pytest.mark.parametrize("kind", ROUTERS)
@pytest.mark.parametrize("moment", [AT_REST, TRAINING], ids=["at rest", "training"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1)])
def test_no_tokens_and_one_token(kind: RouterKind, moment: Moment, shape: tuple[int, int]) -> None:
    every = allowed(kind)[-1]
    made = config(kind, every)
    assert made.moe is not None
    layer = MoeLayer(made, 1)
    bank = build_experts(made) if made.moe.reuse > 1 else None
    randomised(layer, 3)
    if bank is not None:
        randomised(bank, 4)
    x_BSD = torch.randn(*shape, D, dtype=torch.float64, requires_grad=True)
    width = made.moe.carry_width
    carry_TC = torch.randn(shape[0] * shape[1], width, dtype=torch.float64) if width else None
    out_BSD, carry, report = layer(x_BSD, True, carry_TC, moment, bank)
    assert out_BSD.shape == x_BSD.shape
    assert carry is None or carry.shape == (shape[0] * shape[1], width)
    assert report.entropy.isfinite()
    assert report.balance.isfinite()
    (out_BSD.sum() + report.z + report.balance).backward()
    assert x_BSD.grad is not None
    assert x_BSD.grad.isfinite().all()


@pytest.mark.parametrize("kind", sorted(ROUTERS.keys() - {"depth-averaged"}))  # whose logits are an MLP's
def test_one_expert_takes_all_tokens(kind: RouterKind) -> None:
    """Its row of the router's weights alone lies along what all tokens share."""
    layer = MoeLayer(config(kind, ()), 1)
    randomised(layer, 3)
    x_BSD = torch.randn(B, S, D, dtype=torch.float64) * 0.1 + 1.0
    router: Any = layer.router
    router.moe = router.moe.model_copy(update={"top_k": 1})
    router.weight_ED.data = torch.zeros_like(router.weight_ED)
    router.weight_ED.data[5] = 1.0
    routed = router(x_BSD.flatten(0, 1), B, True, None, AT_REST)
    assert routed.routing.counts_E.tolist() == [0, 0, 0, 0, 0, B * S, 0, 0]
    out_BSD = layer(x_BSD).out_BSD
    truth_TD = by_hand(layer, x_BSD.flatten(0, 1), routed.routing, layer.experts)  # type: ignore[arg-type]
    torch.testing.assert_close(out_BSD.flatten(0, 1), truth_TD, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ROUTERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_router_that_is_no_number_ends_a_generation_with_words(kind: RouterKind, temperature: float) -> None:
    model = build(routed(kind))
    with torch.no_grad():
        model.blocks[1].ffn.router.weight_ED[0] = torch.nan  # type: ignore[union-attr, index]
    with pytest.raises(GrainlineError, match="scores after 3 tokens are no numbers"):
        list(generate(model, [1, 2, 3], max_new_tokens=2, sampling=Sampling(temperature)))
