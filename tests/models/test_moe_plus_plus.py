"""MoE++ (arXiv 2410.07348) against a loop over tokens, and against what must not change."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grainline.documents import Attention, DocumentError, ModelConfig, Moe
from grainline.documents.recipe import Loss
from grainline.models.build import build
from grainline.models.cells import Batch, Carry, cell_names
from grainline.models.count import ffn_parameters, parameters, router_parameters
from grainline.models.loss import loss_sums
from grainline.models.model import Model
from grainline.models.moe import MoeLayer, Moment, step_bias
from grainline.models.moe.capacity import limits, within_capacity
from grainline.models.moe.report import router_report, sequence_balance
from grainline.models.moe.router import TopKRouter
from grainline.models.moe.seams import Routing
from grainline.parallel.pipeline.stage import Kept, Stage

TRAINING = Moment(training=True)
PAIRS = {"FF", "FZ", "CF", "FK", "CZ", "KZ", "CK", "KK"}  # FFN, zero, copy, constant: all that 4 + 1 + 1 + 2 allow


def config(layers: int = 2, mtp: int = 0, **moe: object) -> ModelConfig:
    wanted = {"experts": 4, "top_k": 2, "expert_hidden": 6, "zero": 1, "copy_experts": 1, "constant": 2}
    return ModelConfig(
        vocab_size=32,
        hidden_size=16,
        layers=layers,
        ffn_hidden=24,
        mtp_depth=mtp,
        attention=Attention(heads=2, head_dim=8),
        moe=Moe.model_validate(wanted | {"router": "gating-residual"} | moe),
    )


def randomised(module: MoeLayer, seed: int = 0) -> MoeLayer:
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return module


def kind(moe: Moe, expert: int) -> str:
    names = "F" * moe.pool + "Z" * moe.zero + "C" * moe.copy_experts + "K" * moe.constant
    return names[expert]


def one_token(layer: MoeLayer, moe: Moe, x_D: Tensor, carry_E: Tensor | None) -> tuple[Tensor, Tensor, list[int]]:
    """The published pseudo-code, a token at a time: its output, its logits, and whom it chose."""
    router, costless, experts = layer.router, layer.costless, layer.experts
    assert isinstance(router, TopKRouter)
    assert costless is not None
    assert costless.weight_J2D is not None
    assert costless.vector_JD is not None
    assert experts is not None
    logits_E = router.weight_ED @ x_D
    if carry_E is not None:
        logits_E = logits_E + router.residual_EE @ carry_E
    p_E = torch.exp(logits_E) / torch.exp(logits_E).sum()
    chosen = sorted(range(moe.choices), key=lambda e: -float(p_E[e].detach()))[: moe.top_k]
    weights = [p_E[e] * (kind(moe, e) != "Z") for e in chosen]
    total = sum(weights, torch.zeros((), dtype=torch.float64))
    y_D = torch.zeros_like(x_D)
    for e, weight in zip(chosen, weights, strict=True):
        match kind(moe, e):
            case "F":
                (gate, up), down = experts.w13_E2FD[e], experts.w2_EDF[e]
                out_D = down @ (torch.nn.functional.silu(gate @ x_D) * (up @ x_D))
            case "C":
                out_D = x_D
            case "K":
                j = e - moe.choices + moe.constant
                a = torch.softmax(costless.weight_J2D[j] @ x_D, 0)
                out_D = a[0] * x_D + a[1] * costless.vector_JD[j]
            case _:
                continue
        y_D = y_D + weight / total * out_D
    return y_D, logits_E, chosen


def test_the_layer_is_a_loop_over_tokens_with_every_gradient() -> None:
    c = config()
    assert c.moe is not None
    layer, tokens = randomised(MoeLayer(c, 1), seed=1), 300
    draw = torch.Generator().manual_seed(2)
    x_TD, dy_TD = (torch.randn(tokens, 16, generator=draw, dtype=torch.float64) for _ in range(2))
    carry_TE, dg_TE = (torch.randn(tokens, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    leaves = [x_TD.requires_grad_(), carry_TE.requires_grad_(), *layer.parameters()]

    out = layer(x_TD.view(3, 100, 16), carry_TC=carry_TE)
    assert out.carry_TC is not None
    by_loop = [one_token(layer, c.moe, x, g) for x, g in zip(x_TD, carry_TE, strict=True)]
    assert {"".join(sorted(kind(c.moe, e) for e in chosen)) for _, _, chosen in by_loop} == PAIRS
    y_TD, g_TE = (torch.stack([token[i] for token in by_loop]) for i in range(2))
    torch.testing.assert_close(out.out_BSD.flatten(0, 1), y_TD, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.carry_TC, g_TE, rtol=1e-12, atol=1e-12)

    found = torch.autograd.grad((out.out_BSD.flatten(0, 1) * dy_TD).sum() + (out.carry_TC * dg_TE).sum(), leaves)
    truth = torch.autograd.grad((y_TD * dy_TD).sum() + (g_TE * dg_TE).sum(), leaves)
    for name, a, b in zip(["x", "carry", *dict(layer.named_parameters())], found, truth, strict=True):
        assert float(b.abs().max()) > 0, name
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_without_costless_experts_it_is_the_plain_layer_bit_for_bit() -> None:
    none = {"zero": 0, "copy_experts": 0, "constant": 0}
    mine, plain = MoeLayer(config(**none), 0), MoeLayer(config(**none, router="softmax-topk"), 0)
    randomised(mine)
    plain.load_state_dict({name: t.detach() for name, t in mine.state_dict().items()})
    x_BSD = torch.randn(2, 30, 16)
    assert torch.equal(mine.float()(x_BSD).out_BSD, plain.float()(x_BSD).out_BSD)


def test_a_residual_of_zero_is_none() -> None:
    with_carry = build(config(3), seed=4)
    ids = torch.randint(0, 32, (2, 20), generator=torch.Generator().manual_seed(0))
    without = build(config(3, router="softmax-topk"), seed=4)
    assert torch.equal(with_carry(ids), without(ids))
    with torch.no_grad():
        for block in with_carry.blocks[1:]:
            block.ffn.router.residual_EE.normal_()
    assert not torch.allclose(with_carry(ids), without(ids))


def test_only_layers_after_another_sparse_one_have_a_residual_and_start_without_it() -> None:
    model = build(config(4, mtp=1, dense_layers=(0, 2)))
    named = dict(model.named_parameters())
    assert [name for name in named if name.endswith("residual_EE")] == ["blocks.3.ffn.router.residual_EE"]
    assert not named["blocks.3.ffn.router.residual_EE"].any()
    vectors = build(config(2, constant=50)).blocks[0].ffn.costless.vector_JD
    assert float(vectors.detach().std()) == pytest.approx(1.0, abs=0.1)


def nudged(c: ModelConfig, dtype: torch.dtype = torch.float64, cells: list[str] | None = None) -> Model:
    """A model whose residuals aren't zero, the same in each part."""
    model = build(c, seed=6, dtype=dtype, cells=cells)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("residual_EE"):
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
            elif name.endswith("weight_ED"):
                parameter.mul_(20)  # decided enough for the carry to matter
    return model


def test_decoding_token_by_token_equals_one_pass() -> None:
    model = nudged(config(4, dense_layers=(1,))).eval()
    ids = torch.randint(0, 32, (2, 15))
    with torch.inference_mode():
        whole, state = model(ids), model.new_state()
        pieces = [model(ids[:, a:b], state) for a, b in pairwise((0, 4, 5, 6, 15))]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cut", [(2, 6), (3, 5), (4, 4), (6, 2)])
def test_logits_and_their_gradient_cross_a_pipeline(cut: tuple[int, int]) -> None:
    """Two stages of parts of their own, given each other's tensors; a dense block lies between the sparse ones."""
    c, loss = config(4, mtp=1, dense_layers=(2,)), Loss(z_loss=0.1, balance_loss=0.2, mtp_weight=0.3)
    ids = torch.randint(0, 32, (3, 11), generator=torch.Generator().manual_seed(1))
    whole = nudged(c)
    objective = loss_sums(whole, ids).objective(loss, 30)
    objective.backward()

    cells = list(cell_names(c))
    parts = [cells[: cut[0]], cells[cut[0] :]]
    first, second = (Stage(tuple(part), nudged(c, cells=part), loss, 30) for part in parts)
    batch = Batch.of(c, ids)
    left, mine, _ = first.forward(batch, Carry())
    entered = Carry(*(None if t is None else t.detach().requires_grad_() for t in vars(left).values()))
    assert (entered.router_TC is not None) == (cut[0] < 6)
    end, rest, _ = second.forward(batch, entered)
    assert rest is not None
    assert mine is not None
    torch.testing.assert_close(mine + rest, objective)
    gradients = Kept(entered, end, rest).backward(())
    Kept(Carry(), left, mine).backward(gradients)
    truth = dict(whole.named_parameters())
    for stage in (first, second):
        for name, parameter in stage.model.named_parameters():
            if name in ("embedding.weight", "norm.weight"):
                continue  # both stages have a part of it
            torch.testing.assert_close(parameter.grad, truth[name].grad, rtol=1e-8, atol=1e-12, msg=name)


def test_recomputation_changes_nothing() -> None:
    ids, gradients = torch.randint(0, 32, (2, 17)), []
    for again in (False, True):
        model = nudged(config(3, capacity=1.0), torch.float32)
        model.recompute = again
        with model.at(TRAINING):
            loss_sums(model, ids).objective(Loss(balance_loss=0.01), 32).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_token_whose_experts_are_all_zero_gives_nothing_and_no_nan() -> None:
    layer = MoeLayer(config(zero=2), 1)
    randomised(layer)
    layer.float()
    layer.router.weight_ED.data[4:6] += 100  # both zero experts, for positive tokens
    x_BSD = torch.rand(1, 20, 16).requires_grad_()
    out_BSD = layer(x_BSD, carry_TC=torch.zeros(20, 9)).out_BSD
    assert not out_BSD.any()
    out_BSD.sum().backward()
    for tensor in (x_BSD, *layer.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()


def test_what_is_dispatched_is_what_chose_experts_with_weights() -> None:
    c = config(top_k=3)
    assert c.moe is not None
    layer, seen = randomised(MoeLayer(c, 0)).float(), []
    local = layer.dispatcher

    def counting(x_TD: Tensor, routing: Routing, experts: object) -> Tensor:
        seen.append(len(routing.unit_N))
        assert routing.counts_E.shape == (4,)
        assert torch.equal(routing.counts_E, torch.bincount(routing.expert_N, minlength=4))
        return local(x_TD, routing, experts)

    layer.dispatcher = counting
    report = layer(torch.randn(2, 50, 16), report=True).report
    assert seen == [int(report.counts_E[:4].sum())]
    assert int(report.counts_E.sum()) == 300


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_capacity_keeps_the_highest_scores_and_then_the_earlier_token(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(1, 30))
    capacity = data.draw(st.sampled_from([0.2, 0.5, 1.0, 1.1]))
    moe = config(capacity=capacity, tau=data.draw(st.sampled_from([0.1, 0.75, 1.0]))).moe
    assert moe is not None
    seed = data.draw(st.integers(0, 10**6))
    draw = torch.Generator().manual_seed(seed)
    expert_TK = torch.rand(tokens, 8, generator=draw).topk(2).indices
    score_N = torch.randint(1, 4, (2 * tokens,), generator=draw) / 4  # few values, so that there are ties
    unit_N, expert_N = torch.arange(tokens).repeat_interleave(2), expert_TK.flatten()
    routing = Routing(unit_N, expert_N, score_N, torch.bincount(expert_N, minlength=8))
    found = within_capacity(moe, routing)

    shares = moe.tau * 4 + 4
    expected = set()
    for e in range(8):
        limit = math.ceil(round(capacity * 2 * tokens * (moe.tau if e < 4 else 1) / shares, 6))
        assert int(limits(moe, 2 * tokens, score_N)[e]) == max(1, limit)
        mine = sorted((i for i in range(2 * tokens) if expert_N[i] == e), key=lambda i: (-float(score_N[i]), i))
        expected |= {(int(unit_N[i]), e) for i in mine[: max(1, limit)]}
    assert set(zip(found.unit_N.tolist(), found.expert_N.tolist(), strict=True)) == expected
    assert len(found.unit_N) == len(found.score_N) == len(expected)
    assert torch.equal(found.counts_E, torch.bincount(found.expert_N, minlength=8))
    assert torch.equal(found.unit_N, found.unit_N.sort().values)


def test_capacity_limits_training_alone_and_reports_what_was_chosen() -> None:
    layer = randomised(MoeLayer(config(capacity=0.5), 0)).float()
    free = MoeLayer(config(), 0)
    free.load_state_dict(layer.state_dict())
    x_BSD = torch.randn(2, 40, 16)
    assert torch.equal(layer(x_BSD).out_BSD, free.float()(x_BSD).out_BSD)
    routed = layer.router(x_BSD.flatten(0, 1), 2, True, None, TRAINING)
    assert routed.report is not None
    assert int(routed.report.counts_E.sum()) == 160 > 1.5 * len(routed.routing.unit_N)
    out_BSD = layer(x_BSD, moment=TRAINING).out_BSD
    whole_units = set(routed.routing.unit_N.tolist())
    for token, out_D in enumerate(out_BSD.flatten(0, 1)):
        assert bool(out_D.any()) or token not in whole_units or bool((routed.routing.expert_N == 4).any())


def test_balance_is_the_published_sum_and_least_where_loads_go_as_tau_says() -> None:
    c = config(tau=0.5, constant=0, copy_experts=0)  # 4 experts of weight 1 and one of 1/2: loads of 1 to 2
    moe = c.moe
    assert moe is not None
    assert moe.ffn_share == pytest.approx(4 / 6)

    def balance(share: list[float], counts: list[int]) -> float:
        expert_N = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
        score_TE = torch.tensor([share] * 6, dtype=torch.float64)
        unit_N = torch.arange(6).repeat_interleave(2)
        report = router_report(moe, score_TE.log(), score_TE, unit_N, expert_N, 1)
        published = sum(eta * count / 6 * p for eta, count, p in zip((1, 1, 1, 1, 0.5), counts, share, strict=True))
        assert float(report.balance) == pytest.approx(6 * published * 6 / 2)  # T tokens; Z / K
        return float(report.balance)

    best = balance([1 / 6] * 4 + [1 / 3], [2, 2, 2, 2, 4])
    assert best == pytest.approx(6)
    assert balance([1 / 5] * 5, [2, 2, 2, 2, 4]) == pytest.approx(6)  # loads are even, whatever scores are
    assert balance([1 / 10] * 4 + [6 / 10], [1, 1, 1, 1, 8]) > 1.2 * best
    assert balance([1 / 4 - 0.01] * 4 + [0.04], [3, 3, 3, 3, 0]) > 1.2 * best
    score_TE = torch.rand(6, 5)
    plain = sequence_balance(score_TE, torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 0]), 2)
    even = sequence_balance(score_TE, torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 0]), 2, torch.ones(5))
    torch.testing.assert_close(plain, even)


def test_a_selection_bias_brings_the_share_of_ffns_to_what_tau_says() -> None:
    moe = {"router": "sigmoid-topk", "bias_balanced": True, "tau": 0.5}
    model = build(config(1, **moe), seed=1)
    wanted = config(1, **moe).moe
    assert wanted is not None
    router = model.blocks[0].ffn.router
    router.weight_ED.data.normal_(generator=torch.Generator().manual_seed(3))
    x_TD = torch.randn(2000, 16, generator=torch.Generator().manual_seed(2))
    for rate in [2e-2] * 200 + [2e-3] * 200:
        counts_E = router(x_TD, 1, False).routing.counts_E
        step_bias(model, counts_E.unsqueeze(0), rate)
    share_E = counts_E / counts_E.sum()
    even_E = torch.tensor([0.5] * 4 + [1.0] * 4) / 6
    torch.testing.assert_close(share_E, even_E, rtol=0.06, atol=0)
    assert float(share_E[:4].sum()) == pytest.approx(wanted.ffn_share, abs=0.01)


@pytest.mark.parametrize(
    ("experts", "constant", "layers", "size", "hidden", "billions"),
    [
        (8, 1, 12, 768, 2048, 0.453),
        (16, 2, 12, 768, 2048, 0.906),
        (32, 6, 12, 768, 2048, 1.812),
        (16, 2, 24, 1536, 4096, 7.248),
    ],
)
def test_the_published_sizes(experts: int, constant: int, layers: int, size: int, hidden: int, billions: float) -> None:
    tables = config(layers).tables()
    tables |= {"hidden_size": size, "vocab_size": 65536}
    tables["moe"] |= {"experts": experts, "expert_hidden": hidden, "constant": "auto"}
    c = ModelConfig.parse(tables)
    assert c.moe is not None
    assert c.moe.constant == constant
    weights = layers * experts * 3 * size * hidden
    assert round(weights / 1e9, 3) == billions
    routers = sum(router_parameters(c, layer) for layer in range(layers))
    assert routers == layers * c.moe.choices * size + (layers - 1) * c.moe.choices**2
    total = sum(ffn_parameters(c, layer)[0] for layer in range(layers)) - routers
    assert total - weights == layers * constant * 3 * size
    if billions > 7:
        assert total - weights == 221_184


def test_counts_are_the_models_and_work_is_what_loads_come_to() -> None:
    c = config(3, mtp=1, dense_layers=(1,))
    count = parameters(c)
    assert count.total + count.mtp == sum(p.numel() for p in build(c).parameters())
    assert c.moe is not None
    assert c.moe.ffn_share == pytest.approx(0.75 * 4 / (0.75 * 4 + 4))
    plain = parameters(c.model_copy(update={"moe": c.moe.model_copy(update={"zero": 0, "copy_experts": 0})}))
    assert plain.active > count.active  # fewer choices fall on experts with weights


@pytest.mark.parametrize(
    ("moe", "message"),
    [
        ({"tau": 0}, "moe.tau: must be greater than 0"),
        ({"tau": 0.5, "zero": 0, "copy_experts": 0, "constant": 0}, "tau weighs zero, copy_experts and constant"),
        ({"top_k": 5}, "top_k 5 is more than the 4 experts"),
        ({"constant": "many"}, "moe.constant: must be a whole number"),
        ({"groups": 2, "top_groups": 1}, "logits of the layer before are added to all experts, open or not"),
        ({"reuse": 2}, "may belong to other experts than this layer's pool"),
        ({"capacity": 0}, "moe.capacity: must be greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(moe: dict[str, object], message: str) -> None:
    tables = config().tables()
    with pytest.raises(DocumentError, match=message):
        ModelConfig.parse({**tables, "moe": {**tables["moe"], **moe}}, "m.toml")
