"""The expert layer against a per-token loop, and its balance against the published rule."""

import math

import pytest
import torch

from grainline import kernels
from grainline.documents import Attention, DocumentError, ModelConfig, Moe
from grainline.kernels.sonic import row_quantum
from grainline.models.build import build
from grainline.models.moe import MoeLayer, imbalance, step_bias
from grainline.models.moe.dispatch import LocalDispatcher
from grainline.models.moe.report import sequence_balance
from grainline.models.moe.router import TopKRouter
from grainline.models.moe.seams import Routing


def config(**moe):
    return ModelConfig(
        vocab_size=32,
        hidden_size=16,
        layers=2,
        ffn_hidden=24,
        attention=Attention(heads=2, head_dim=8),
        moe=Moe(**{"experts": 8, "top_k": 2, "expert_hidden": 6, **moe}),
    )


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return module


def route_by_hand(router, x):
    """Brief of Ling 2.0, section 1, one token at a time."""
    moe = router.moe
    logits = [sum(w * v for w, v in zip(row, x, strict=True)) for row in router.weight_ED.tolist()]
    if moe.router == "sigmoid-topk":
        scores = [1 / (1 + math.exp(-z)) for z in logits]
    else:
        scores = [math.exp(z) / sum(map(math.exp, logits)) for z in logits]
    bias = [0.0] * moe.experts if router.bias_E is None else router.bias_E.tolist()
    choice = [s + b for s, b in zip(scores, bias, strict=True)]
    per_group = moe.experts // moe.groups
    groups = [choice[g * per_group : (g + 1) * per_group] for g in range(moe.groups)]
    best = sorted(range(moe.groups), key=lambda g: -sum(sorted(groups[g])[-2:]))[: moe.top_groups]
    is_open = [moe.groups == 1 or e // per_group in best for e in range(moe.experts)]
    chosen = sorted((e for e in range(moe.experts) if is_open[e]), key=lambda e: -choice[e])[: moe.top_k]
    total = sum(scores[e] for e in chosen) if moe.normalize else 1.0
    return {e: scores[e] / total * moe.scale for e in chosen}


@pytest.mark.parametrize(
    "moe",
    [
        {"bias_balanced": True, "scale": 2.5},
        {"bias_balanced": True, "groups": 4, "top_groups": 2, "scale": 2.5},
        {"router": "softmax-topk"},
        {"router": "softmax-topk", "normalize": False},
    ],
)
def test_router_equals_a_loop_over_tokens(moe):
    router = randomised(TopKRouter(config(**moe), 0))
    x_TD = torch.randn(40, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    routed = router(x_TD.float(), 1, True)
    routing, report = routed.routing, routed.report
    assert torch.equal(routing.unit_N, routing.unit_N.sort().values)
    for token in range(40):
        mine = routing.unit_N == token
        found = dict(zip(routing.expert_N[mine].tolist(), routing.score_N[mine].tolist(), strict=True))
        truth = route_by_hand(router, x_TD[token].tolist())
        assert found.keys() == truth.keys()
        assert all(abs(found[e] - truth[e]) < 1e-5 for e in truth)
    assert torch.equal(routing.counts_E, torch.bincount(routing.expert_N, minlength=8))
    assert torch.equal(report.counts_E, routing.counts_E)


def test_one_group_selects_like_plain_top_k():
    router = randomised(TopKRouter(config(groups=1), 0))
    score_TE = torch.rand(50, 8, dtype=torch.float64)
    assert torch.equal(router.open_choices(score_TE), score_TE)


def test_layer_equals_a_loop_over_tokens_and_experts():
    layer = randomised(MoeLayer(config(shared_experts=2, bias_balanced=True), 0), seed=3).float()
    x_BSD = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(2))
    out_BSD = layer(x_BSD).out_BSD

    def ffn(w13, w2, x):
        return w2 @ (torch.nn.functional.silu(w13[0] @ x) * (w13[1] @ x))

    for b in range(2):
        for s in range(9):
            x = x_BSD[b, s]
            truth = ffn(layer.shared.w13_2FD, layer.shared.w2_DF, x)
            for e, score in route_by_hand(layer.router, x.tolist()).items():
                truth = truth + score * ffn(layer.experts.w13_E2FD[e], layer.experts.w2_EDF[e], x)
            torch.testing.assert_close(out_BSD[b, s], truth, rtol=1e-4, atol=1e-4)


def test_padded_rows_change_neither_output_nor_gradients():
    """The same layer in bfloat16 in PyTorch, where rows are padded, and with the quantum forced to one."""
    torch.manual_seed(0)
    layer = MoeLayer(config(bias_balanced=True), 0)
    randomised(layer).float()
    x_TD = torch.randn(500, 16).bfloat16()
    routing = layer.router(x_TD, 1, False).routing

    def run():
        layer.zero_grad()
        out = LocalDispatcher()(x_TD, routing, layer.experts)
        out.float().square().sum().backward(retain_graph=True)
        return out, layer.experts.w13_E2FD.grad.clone(), layer.experts.w2_EDF.grad.clone()

    asked: list[int] = []

    def never(*arguments):
        asked.append(row_quantum(*arguments))
        return 1

    with kernels.use({"expert_mixture": "sonic"}), pytest.MonkeyPatch.context() as patch:
        with_padding = run()
        patch.setattr("grainline.kernels.sonic.row_quantum", never)
        without = run()
    assert max(asked) > 1  # else nothing was padded in the first place
    for a, b in zip(with_padding, without, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.05, atol=0.05 * float(b.detach().abs().max()))


def test_the_local_dispatcher_sorts_by_expert_and_adds_up_by_token():
    x_TD = torch.randn(12, 4)
    expert_N = torch.tensor([2, 0] * 12)
    routing = Routing(
        torch.arange(12).repeat_interleave(2), expert_N, torch.full((24,), 0.5), torch.tensor([12, 0, 12])
    )

    class Same:
        width = 4

        def mixture(self, x_TD, score_N, unit_N, counts_E):
            assert counts_E.tolist() == [12, 0, 12]
            assert unit_N.tolist() == [*range(12), *range(12)]
            return torch.zeros_like(x_TD).index_add(0, unit_N, x_TD[unit_N] * score_N.unsqueeze(1))

    torch.testing.assert_close(LocalDispatcher()(x_TD, routing, Same()), x_TD)


def test_bias_moves_as_published_and_keeps_its_mean():
    model = build(config(bias_balanced=True))
    counts_LE = torch.randint(0, 100, (2, 8), generator=torch.Generator().manual_seed(0))
    for _ in range(50):
        before = [b.clone() for n, b in model.named_buffers() if n.endswith("bias_E")]
        step_bias(model, counts_LE, 1e-3)
        after = [b for n, b in model.named_buffers() if n.endswith("bias_E")]
        for b0, b1, c in zip(before, after, counts_LE.double(), strict=True):
            sign = torch.sign(c.mean() - c)
            torch.testing.assert_close(b1.double(), b0.double() + 1e-3 * (sign - sign.mean()), rtol=0, atol=1e-8)
            assert abs(float(b1.mean())) < 1e-6
    with pytest.raises(ValueError, match="3 layers for a model with 2 routers"):
        step_bias(model, torch.ones(3, 8), 1e-3)


def test_even_is_where_costless_experts_get_more_the_less_they_weigh():
    """Loads that go as 1/η move no bias (MoE++, arXiv 2410.07348, section 3.2)."""
    model = build(config(bias_balanced=True, zero=1, copy_experts=1, tau=0.5))
    step_bias(model, torch.tensor([[10] * 8 + [20] * 2, [10] * 8 + [10] * 2]), 1e-3)
    first, second = (block.ffn.router.bias_E for block in model.blocks)
    assert torch.equal(first, torch.zeros(10))
    assert (second[8:] > 0).all()
    assert (second[:8] < 0).all()


def test_the_bias_brings_a_lopsided_router_to_even_load():
    torch.manual_seed(0)
    moe_config = config(bias_balanced=True, experts=16)
    model = build(moe_config)
    router = model.blocks[0].ffn.router
    x_TD = torch.randn(2000, 16) + 1.0  # a common direction makes some experts everybody's favourites
    router.weight_ED.data = torch.randn(16, 16) * 0.2
    start = float(imbalance(router(x_TD, 1, False).routing.counts_E))
    for rate in [1e-2] * 200 + [1e-3] * 100:
        counts_E = router(x_TD, 1, False).routing.counts_E
        step_bias(model, torch.stack([counts_E, counts_E]), rate)
    assert start > 3
    assert float(imbalance(router(x_TD, 1, False).routing.counts_E)) < 1.15


def test_balance_loss_is_tokens_when_even_and_more_when_not():
    even_TE = torch.full((8, 4), 0.5)
    unit_N = torch.arange(8).repeat_interleave(2)
    assert float(sequence_balance(even_TE, unit_N, torch.tensor([0, 1, 2, 3] * 4), 2)) == pytest.approx(8.0)
    skewed_TE = torch.tensor([[0.9, 0.8, 0.1, 0.1]] * 8)
    assert float(sequence_balance(skewed_TE, unit_N, torch.tensor([0, 1] * 8), 2)) > 12


@pytest.mark.parametrize(
    ("moe", "message"),
    [
        ({"experts": 10, "groups": 4}, "multiple of groups"),
        ({"experts": 8, "groups": 4, "top_groups": 1, "top_k": 4}, "can't give top_k 4"),
        ({"experts": 8, "groups": 8, "top_groups": 8}, "at least two"),
        ({"top_k": 9}, "more than the 8 experts"),
        ({"router": "expert-choice", "bias_balanced": True}, "evenly loaded by construction"),
    ],
)
def test_impossible_choices_are_refused_by_the_document(moe, message):
    tables = {
        "vocab_size": 8, "hidden_size": 8, "layers": 1, "ffn_hidden": 8, "attention": {"heads": 1, "head_dim": 8},
        "moe": {"experts": 8, "top_k": 2, "expert_hidden": 4, **moe},
    }  # fmt: skip
    with pytest.raises(DocumentError, match=message):
        ModelConfig.parse(tables, "m.toml")
