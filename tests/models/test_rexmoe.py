"""Experts that layers share, and candidates that grow (ReXMoE): against plain models, loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import Attention, DocumentError, GrainlineError, ModelConfig, Moe, Recipe
from grainline.documents.recipe import Loss, Opening
from grainline.models.build import build
from grainline.models.count import expert_parameters, parameters, router_parameters, touched_experts
from grainline.models.loss import loss_sums
from grainline.models.moe import Moment, step_bias
from grainline.models.moe.progressive import balanced_loads, check_opening, closed_experts, open_experts
from grainline.models.upcycle import shared_experts
from grainline.plan import memory
from grainline.plan.sums import shared_gradients
from grainline.schedule import add_messages
from grainline.schedule.cells import cells_of
from grainline.schedule.table import make_schedule

LOSS = Loss(z_loss=1e-2, balance_loss=1e-1, mtp_weight=0.3)


def config(layers=4, mtp=0, **moe):
    return ModelConfig(
        vocab_size=32,
        hidden_size=16,
        layers=layers,
        ffn_hidden=24,
        mtp_depth=mtp,
        attention=Attention(heads=2, head_dim=8),
        moe=Moe(**{"experts": 4, "top_k": 2, "expert_hidden": 6, "router": "softmax-topk", **moe}),
    )


def ids(rows=3, length=10, seed=0):
    return torch.randint(0, 32, (rows, length), generator=torch.Generator().manual_seed(seed))


def lively(model, seed=1):
    """Weights large enough, and biases uneven enough, for routers to care."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        scale = 0.05 if name.endswith("bias_E") else 0.4
        tensor.data += scale * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return model


def objective(model, moment=None):
    with model.at(moment) if moment else torch.enable_grad():
        return loss_sums(model, ids()).objective(LOSS, 27)


def opening(**keys):
    return Opening(**{"opening": "linear", "open_from": 0.0, "open_until": 1.0, **keys})


# The published table: N 64, r 4, from step 10,000 to 30,000.


@pytest.mark.parametrize(
    ("step", "linear", "stepwise"),
    [
        (0, 64, 64),
        (9_999, 64, 64),
        (10_000, 64, 128),
        (10_001, 64, 128),
        (10_105, 65, 128),
        (20_000, 160, 192),
        (29_999, 255, 192),
        (30_000, 256, 256),
        (40_000, 256, 256),
    ],
)
def test_open_experts_are_the_published_ones(step, linear, stepwise):
    moe, steps = Moe(experts=64, top_k=8, expert_hidden=4, reuse=4), 47_700
    course = {"open_from": 10_000 / steps, "open_until": 30_000 / steps}
    assert open_experts(Opening(opening="linear", **course), moe, step / steps) == linear
    assert open_experts(Opening(opening="stepwise", **course), moe, step / steps) == stepwise


@given(
    reuse=st.integers(1, 8),
    experts=st.integers(1, 40),
    start=st.integers(0, 500),
    length=st.integers(1, 500),
    step=st.integers(0, 1000),
)
@settings(deadline=None)
def test_open_experts_are_the_papers_formula_in_whole_numbers(reuse, experts, start, length, step):
    moe = Moe(experts=experts, top_k=1, expert_hidden=4, reuse=reuse)
    given_ = Opening(opening="linear", open_from=start / 1000, open_until=(start + length) / 1000)
    truth = experts + (reuse - 1) * experts * (step - start) // length
    assert open_experts(given_, moe, step / 1000) == min(max(truth, experts), reuse * experts)


@pytest.mark.parametrize("draw", ["layer", "local-first", "token"])
def test_draws_depend_on_step_and_layer_alone(draw):
    shared = config(reuse=4)
    moment = Moment(True, 0.5, seed=77, opening=opening(draw=draw))
    closed = closed_experts(shared, 2, moment, 12, 3)
    assert closed.open == 10  # (1 + 3 · 0.5) · 4
    mask_TE = closed.mask.expand(12, 16)
    assert ((~mask_TE).sum(1) == 10).all()
    for tokens, sequences in ((12, 3), (4, 1)):  # on another rank, in another micro-batch, computed again
        again_TE = closed_experts(shared, 2, moment, tokens, sequences).mask.expand(tokens, 16)
        assert torch.equal(again_TE[:4], mask_TE[:4])
    if draw == "local-first":
        assert not mask_TE[:, 8:12].any()
    if draw == "token":
        assert torch.equal(mask_TE[:4], mask_TE[4:8])
        assert len({tuple(row.tolist()) for row in mask_TE[:4]}) > 1
    others = [closed_experts(shared, 3, moment, 12, 3)]
    others += [closed_experts(shared, 2, Moment(True, 0.5, seed, opening(draw=draw)), 12, 3) for seed in (78, 79)]
    assert any(not torch.equal(other.mask, closed.mask) for other in others)


def test_every_expert_is_open_equally_often():
    shared = config(reuse=2)
    open_E = sum(~closed_experts(shared, 1, Moment(True, 0.5, s, opening()), 1, 1).mask for s in range(2000))
    assert (open_E.double() / 2000 - 6 / 8).abs().max() < 0.05


@pytest.mark.parametrize("closed", ["score", "logit"])
@pytest.mark.parametrize("router", ["softmax-topk", "sigmoid-topk"])
@pytest.mark.parametrize("draw", ["layer", "token"])
def test_a_closed_expert_is_never_chosen_even_by_tokens_that_like_no_other(closed, router, draw):
    model = lively(build(config(reuse=4, router=router, bias_balanced=True, normalize=False), dtype=torch.float64))
    router_, x_TD = model.blocks[1].ffn.router, torch.randn(40, 16, dtype=torch.float64)
    moment = Moment(True, 0.0, 5, opening(closed=closed, draw=draw))
    mask_TE = closed_experts(model.config, 1, moment, 40, 2).mask.expand(40, 16)
    router_.weight_ED.data[:, 0] = 0
    x_TD[:, 0] = 1.0
    for open_logit in (0.0, -2000.0):  # scores that are exactly 0 are still those of open experts
        router_.weight_ED.data[:, 0] = torch.where(mask_TE[0], 0.0, open_logit) if draw == "layer" else 0.0
        routed = router_(x_TD, 2, True, None, moment)
        chosen_TE = torch.zeros(40, 16, dtype=torch.bool)
        chosen_TE[routed.routing.unit_N, routed.routing.expert_N] = True
        assert not (chosen_TE & mask_TE).any()
        assert (chosen_TE.sum(1) == 2).all()
        assert (routed.routing.score_N >= 0).all()
    at_rest = router_(x_TD, 2, True).routing
    validation = router_(x_TD, 2, True, None, Moment(False, 0.0, 5, opening(closed=closed, draw=draw))).routing
    assert torch.equal(validation.expert_N, at_rest.expert_N)
    assert torch.equal(validation.score_N, at_rest.score_N)


def test_scores_of_open_experts_stay_or_are_shared_out_anew():
    model = lively(build(config(reuse=4, normalize=False), dtype=torch.float64))
    router, x_TD = model.blocks[1].ffn.router, torch.randn(30, 16, dtype=torch.float64)
    logits_TE = x_TD @ router.weight_ED.T
    for closed in ("score", "logit"):
        moment = Moment(True, 0.0, 3, opening(closed=closed))
        mask_E = closed_experts(model.config, 1, moment, 30, 1).mask
        routing = router(x_TD, 1, False, None, moment).routing
        mass_T = logits_TE.softmax(-1)[:, ~mask_E].sum(-1)
        truth_TE = logits_TE.softmax(-1) / (1.0 if closed == "score" else mass_T.unsqueeze(-1))
        torch.testing.assert_close(routing.score_N, truth_TE[routing.unit_N, routing.expert_N])


def test_balance_is_one_per_token_where_open_experts_are_evenly_loaded():
    model = build(config(reuse=2, top_k=1, layers=2), dtype=torch.float64)
    router = model.blocks[0].ffn.router
    moment = Moment(True, 0.0, 3, opening())
    open_ = (~closed_experts(model.config, 0, moment, 4, 1).mask).nonzero().flatten()
    router.weight_ED.data.zero_()
    for i, expert in enumerate(open_.tolist()):
        router.weight_ED.data[expert, i] = 100.0
    x_TD = torch.eye(4, 16, dtype=torch.float64)  # each token likes another of the four open ones
    report = router(x_TD, 1, True, None, moment).report
    assert report.balance.item() == pytest.approx(4.0)
    assert report.z.item() == pytest.approx(4 * math.log(math.exp(100) + 3) ** 2)


# The shared pool.


@pytest.mark.parametrize("bias_balanced", [False, True])
def test_with_their_neighbours_closed_layers_compute_as_without_them(bias_balanced):
    """The whole model's loss and all gradients: what upcycling starts from."""
    keys = {"mtp": 1, "dense_layers": (1,), "shared_experts": 1, "bias_balanced": bias_balanced}
    plain = lively(build(config(**keys), dtype=torch.float64))
    shared = shared_experts(plain, 2, seed=9)
    moment = Moment(True, 0.0, 3, opening(draw="local-first", closed="logit"))
    losses = objective(plain), objective(shared, moment)
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    assert abs(objective(shared).item() - losses[0].item()) > 1e-6  # with all open it's another model
    for loss in losses:
        loss.backward()
    ours, seen = dict(shared.named_parameters()), set()
    for name, theirs in plain.named_parameters():
        if ".ffn.experts." in name or ".router." in name:
            layer = 4 if name.startswith("mtp") else int(name.split(".")[1])
            group = shared.config.expert_layers(layer)
            rows = slice(4 * group.index(layer), 4 * group.index(layer) + 4)
            kept = name if ".router." in name else f"banks.{group[0]}.{name.rsplit('.', 1)[1]}"
            gradient = ours[kept].grad[rows]
            if ".router." in name:
                assert not ours[kept].grad[torch.arange(8) // 4 != group.index(layer)].any()
        else:
            kept, gradient = name, ours[name].grad
        seen.add(kept)
        torch.testing.assert_close(gradient, theirs.grad, rtol=1e-9, atol=1e-13, msg=name)
    assert seen == set(ours)


def test_a_layer_equals_a_loop_over_tokens_and_the_pool():
    model = lively(build(config(reuse=2), dtype=torch.float64))
    x_BSD = torch.randn(2, 5, 16, dtype=torch.float64)
    for layer in (2, 3):
        bank, ffn = model.bank(layer), model.blocks[layer].ffn
        assert bank is model.banks["2"]
        assert ffn.experts is None
        out_BSD = ffn(x_BSD, bank=bank).out_BSD
        for x, out in zip(x_BSD.flatten(0, 1), out_BSD.flatten(0, 1), strict=True):
            score = (ffn.router.weight_ED @ x).softmax(-1)
            best = sorted(range(8), key=lambda e: -score[e].item())[:2]
            truth = sum(
                score[e]
                / score[best].sum()
                * (bank.w2_EDF[e] @ (torch.nn.functional.silu(bank.w13_E2FD[e, 0] @ x) * (bank.w13_E2FD[e, 1] @ x)))
                for e in best
            )
            torch.testing.assert_close(out, truth, rtol=1e-9, atol=1e-12)


def test_a_banks_gradient_is_the_sum_of_its_layers():
    shared = lively(build(config(reuse=4), dtype=torch.float64))
    apart = build(config(experts=16), dtype=torch.float64)
    state = shared.state_dict()
    apart.load_state_dict(
        {
            name: state[f"banks.0.{name.rsplit('.', 1)[1]}"] if ".ffn.experts." in name else state[name]
            for name in apart.state_dict()
        }
    )
    for model in (shared, apart):
        objective(model).backward()
    for weight in ("w13_E2FD", "w2_EDF"):
        total = sum(apart.get_parameter(f"blocks.{i}.ffn.experts.{weight}").grad for i in range(4))
        torch.testing.assert_close(shared.get_parameter(f"banks.0.{weight}").grad, total, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("draw", ["layer", "local-first", "token"])
def test_blocks_computed_again_choose_again_as_before(draw):
    moment, gradients = Moment(True, 0.4, 8, opening(draw=draw)), []
    for recompute in (False, True):
        model = lively(build(config(reuse=2)))
        model.recompute = recompute
        objective(model, moment).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


# Balance.


def test_biases_stay_where_experts_were_closed_and_follow_a_layers_or_a_banks_load():
    model = build(config(reuse=2, bias_balanced=True, layers=2))
    counts_LE = torch.tensor([[9, 1, 2, 0, 9, 3, 0, 0], [1, 9, 2, 0, 0, 3, 9, 0]])
    moment = Moment(True, 0.0, 6, opening())
    masks = [closed_experts(model.config, layer, moment, 1, 1).mask for layer in (0, 1)]
    loads_LE = balanced_loads(model.config, counts_LE, moment)
    step_bias(model, loads_LE, 0.5)
    for layer, mask_E in enumerate(masks):
        load = counts_LE[layer][~mask_E].double()
        sign_E = torch.zeros(8)
        sign_E[~mask_E] = (load.mean() - load).sign().float()
        bias_E = model.blocks[layer].ffn.router.bias_E
        torch.testing.assert_close(bias_E, 0.5 * (sign_E - sign_E.mean()))
    assert torch.equal(balanced_loads(model.config, counts_LE, Moment(True)).long(), counts_LE)
    of_bank = Moment(True, 1.0, 6, opening(load="bank"))
    both_E = counts_LE.double().mean(0)
    torch.testing.assert_close(balanced_loads(model.config, counts_LE, of_bank), both_E.expand(2, 8))
    half = Moment(True, 0.0, 6, opening(load="bank"))
    counts_LE = counts_LE.masked_fill(torch.stack(masks), 0)  # as in a run
    loads_LE = balanced_loads(model.config, counts_LE, half)
    for layer, mask_E in enumerate(masks):
        assert torch.equal(loads_LE[layer].isnan(), mask_E)
        for e in (~mask_E).nonzero().flatten().tolist():
            could = [i for i in (0, 1) if not masks[i][e]]
            assert float(loads_LE[layer, e]) == sum(int(counts_LE[i, e]) for i in could) / len(could)


# What is counted and planned.


@pytest.mark.parametrize(
    ("size", "hidden", "layers", "top_k", "experts", "billions"),
    [(768, 384, 16, 4, 32, 0.453), (512, 744, 32, 8, 64, 2.340)],
)
def test_expert_weights_are_the_published_ones(size, hidden, layers, top_k, experts, billions):
    plain, shared = (
        ModelConfig(
            vocab_size=32_000,
            hidden_size=size,
            layers=layers,
            ffn_hidden=hidden,
            attention=Attention(heads=16, kv_heads=4, head_dim=size // 16),
            moe=Moe(experts=experts, top_k=top_k, expert_hidden=hidden, reuse=reuse),
        )
        for reuse in (1, 4)
    )
    for one in (plain, shared):
        found = memory.parameters_of_all(one, cells_of(one))
        assert sum(found.values()) == parameters(one).total
    banks = sum(count for name, count in found.items() if name.startswith("bank."))
    assert banks == layers * experts * expert_parameters(plain)
    assert round(banks / 1e9, 3) == billions
    routers = [layers * router_parameters(one, 0) for one in (plain, shared)]
    assert routers[1] == 4 * routers[0]
    assert parameters(shared).total - parameters(plain).total == routers[1] - routers[0]
    if layers == 32:
        assert [round(count / 1e6, 2) for count in routers] == [1.05, 4.19]


def test_a_state_dict_holds_a_bank_once():
    model = build(config(reuse=2, mtp=0))
    names = [name for name in model.state_dict() if "w13_E2FD" in name]
    assert names == ["banks.0.w13_E2FD", "banks.2.w13_E2FD"]
    assert sum(p.numel() for p in model.parameters()) == parameters(model.config).total


def test_a_bank_that_two_stages_hold_is_summed_between_them():
    shared = config(reuse=4)
    cells = cells_of(shared)
    schedule = add_messages(make_schedule("1f1b", 2, 4))
    found = list(shared_gradients(shared, schedule, [cells[:3], cells[3:]]))
    assert found == [((0, 1), 4.0 * 16 * expert_parameters(shared))]
    assert not list(shared_gradients(config(reuse=2), schedule, [cells[:3], cells[3:]]))


@pytest.mark.parametrize(
    ("tokens", "reuse", "published"),
    [(1, 1, 8), (1, 8, 8), (16, 1, 56), (16, 4, 102), (16, 8, 114), (128, 1, 64), (128, 4, 252), (128, 8, 444)],
)
def test_touched_experts_are_those_that_even_choices_touch(tokens, reuse, published):
    experts, top_k = 64 * reuse, 8
    expected = touched_experts(experts, top_k, tokens)
    assert int(expected) == published or round(expected) == published
    generator = torch.Generator().manual_seed(tokens)
    choices = torch.rand(200, tokens, experts, generator=generator).topk(top_k, dim=-1).indices
    seen = [len(one.unique()) for one in choices]
    assert sum(seen) / len(seen) == pytest.approx(expected, rel=0.02)


# What can't be.


@pytest.mark.parametrize(
    ("moe", "message"),
    [({"reuse": 0}, "greater than"), ({"reuse": 3}, "3 doesn't divide the 4 sparse layers")],
)
def test_groups_that_cannot_be_are_refused(moe, message):
    tables = config().tables()
    tables["moe"] |= moe
    with pytest.raises(DocumentError, match=message):
        ModelConfig.parse(tables, "m.toml")


@pytest.mark.parametrize(
    ("routing", "moe", "message"),
    [
        ({}, None, "the model has no experts"),
        ({}, {}, "shares none: set moe.reuse"),
        ({"open_share": 0.2}, {}, "leaves 1 experts open at first, fewer than top_k 2"),
        ({}, {"reuse": 2, "groups": 2, "top_groups": 1}, "doesn't go with moe.groups"),
        ({"open_share": 0.5}, {"router": "expert-choice"}, "experts don't wait to be chosen"),
    ],
)
def test_openings_that_cannot_be_are_refused(routing, moe, message):
    tables = {
        "model": {"depth": 2},
        "training": {"steps": 10, "batch_tokens": 256},
        "learning_rate": {"peak": 0.1},
        "routing": {"opening": "linear", **routing},
    }
    model = config(**(moe or {}))
    with pytest.raises(GrainlineError, match=message):
        check_opening(
            Recipe.parse(tables, "r.toml"), model if moe is not None else model.model_copy(update={"moe": None})
        )
    tables["routing"] = {"open_from": 0.5, "open_until": 0.4}
    with pytest.raises(DocumentError, match=r"open_until 0.4 must not come before open_from 0.5"):
        Recipe.parse(tables, "r.toml")


def test_only_a_plain_sparse_model_can_be_upcycled():
    with pytest.raises(GrainlineError, match="doesn't share them yet"):
        shared_experts(build(config(reuse=2)), 2)
    with pytest.raises(DocumentError, match="doesn't divide"):
        shared_experts(build(config()), 3)
