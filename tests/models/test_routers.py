"""Routers whose choice isn't a token's plain top-k: what their papers promise, and the reports of all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grainline import kernels
from grainline.documents import Attention, ModelConfig, Moe
from grainline.documents.moe import NOT_CAUSAL
from grainline.documents.recipe import Opening
from grainline.kernels.rounding import ROUNDINGS
from grainline.kernels.stream.triton import why_not
from grainline.models.moe import AT_REST, Moment, Routing
from grainline.models.moe.expert_choice import best_tokens
from grainline.models.moe.progressive import closed_experts
from grainline.models.moe.report import router_report, sequence_balance
from grainline.models.moe.router import TopKRouter
from grainline.models.moe.routers import ROUTERS, build_router
from grainline.models.moe.token_rounding import TokenRoundingRouter, draws

TRAINING = Moment(True, 0.5, 11)
D = 12


def config(**moe: Any) -> ModelConfig:
    return ModelConfig(
        vocab_size=32,
        hidden_size=D,
        layers=2,
        ffn_hidden=24,
        attention=Attention(heads=1, head_dim=8),
        moe=Moe(**{"experts": 8, "top_k": 2, "expert_hidden": 6, **moe}),
    )


def router(kind: str, seed: int = 0, **moe: Any) -> TopKRouter:
    made = build_router(config(router=kind, **moe), 0)
    assert isinstance(made, TopKRouter)
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*made.parameters(), *made.buffers()]:
        tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.5
    return made


def states(tokens: int, seed: int = 1) -> Tensor:
    return torch.randn(tokens, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def table(routing: Routing, tokens: int, experts: int) -> Tensor:
    """Which token went to which expert."""
    chosen_TE = torch.zeros(tokens, experts, dtype=torch.bool)
    chosen_TE[routing.unit_N, routing.expert_N] = True
    assert int(chosen_TE.sum()) == len(routing.unit_N)  # none twice
    return chosen_TE


# Expert choice.


@pytest.mark.parametrize("normalize", [False, True])
def test_each_expert_takes_its_best_tokens_of_each_sequence(normalize: bool) -> None:
    made, x_TD = router("expert-choice", normalize=normalize, scale=1.5), states(48)
    routing = made(x_TD, 3, False, None, TRAINING).routing
    score_TE = (x_TD @ made.weight_ED.T).softmax(-1)
    taken: dict[int, dict[int, float]] = {t: {} for t in range(48)}
    for first in range(0, 48, 16):
        for e in range(8):  # 16 tokens · top 2 / 8 experts = 4 each
            best = sorted(range(first, first + 16), key=lambda t: -score_TE[t, e].item())[:4]
            for t in best:
                taken[t][e] = score_TE[t, e].item()
    assert routing.counts_E.tolist() == [12] * 8
    assert routing.unit_N.tolist() == [t for t in range(48) for _ in taken[t]]
    assert len({len(of) for of in taken.values()}) > 2  # tokens differ in how many experts they get
    for unit, expert, score in zip(
        routing.unit_N.tolist(), routing.expert_N.tolist(), routing.score_N.tolist(), strict=True
    ):
        total = sum(taken[unit].values()) if normalize else 1.0
        assert score == pytest.approx(taken[unit][expert] / total * 1.5)


@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 8), st.data())
@settings(deadline=None, max_examples=40)
def test_experts_are_evenly_loaded_whatever_the_sizes(sequences: int, length: int, experts: int, data: Any) -> None:
    top_k = data.draw(st.integers(1, experts))
    choice_TE = torch.randn(sequences * length, experts)
    counts_E = best_tokens(choice_TE, sequences, top_k).sum(0)
    assert counts_E.unique().numel() == 1
    each = int(counts_E[0]) / sequences
    assert abs(each - length * top_k / experts) <= 0.5 or each == 1
    assert 1 <= each <= length


def test_sequences_dont_touch_each_other_in_expert_choice() -> None:
    made, x_TD = router("expert-choice"), states(32)
    both = table(made(x_TD, 2, False, None, TRAINING).routing, 32, 8)
    first = table(made(x_TD[:16], 1, False, None, TRAINING).routing, 16, 8)
    assert torch.equal(both[:16], first)


# Token rounding.


COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=9)


def round_counts(counts: list[int], mass_TE: Tensor, tile: int, rounding: Any, seed: int = 0) -> list[int]:
    """By the two backends that need no GPU."""
    found = []
    for backend in ("reference", "on_device"):
        with kernels.use({"round_counts": backend}):
            rounded = kernels.round_counts(torch.tensor(counts), mass_TE, tile, rounding, draws(seed, len(counts)))
            found.append(rounded.tolist())
    assert found[0] == found[1]
    return list(found[0])


@given(COUNTS, st.integers(1, 16), st.sampled_from(sorted(ROUNDINGS)), st.integers(0, 99))
@settings(deadline=None, max_examples=200)
def test_counts_become_multiples_less_than_a_tile_away(counts: list[int], tile: int, rounding: Any, seed: int) -> None:
    tokens = 64
    mass_TE = torch.rand(tokens, len(counts), generator=torch.Generator().manual_seed(seed)).sort(0, descending=True)[0]
    found = round_counts(counts, mass_TE, tile, rounding, seed)
    assert all(r % tile == 0 and abs(r - f) < tile and r <= tokens for r, f in zip(found, counts, strict=True))
    if rounding in ("nearest", "balanced"):
        assert all(rounding == "balanced" or 2 * abs(r - f) <= tile for r, f in zip(found, counts, strict=True))
    if rounding == "balanced":
        assert 2 * abs(sum(found) - sum(counts)) <= tile
    if tile == 1:
        assert found == counts


def test_each_rounding_as_published() -> None:
    counts = [0, 1, 2, 3, 4, 5, 6, 7]
    mass_TE = torch.full((16, 8), 0.5)

    def rounded(rounding: Any, mass_TE: Tensor = mass_TE, seed: int = 0) -> list[int]:
        return round_counts(counts, mass_TE, 4, rounding, seed)

    assert rounded("up") == [0, 4, 4, 4, 4, 8, 8, 8]
    assert rounded("down") == [0, 0, 0, 0, 4, 4, 4, 4]
    assert rounded("nearest") == [0, 0, 0, 4, 4, 4, 4, 8]  # half a tile goes down
    assert rounded("score") == rounded("nearest")  # where all scores are alike
    # Of 6, two ones would be dropped, or a one and a zero added: up by score, and a tie by count.
    falling_TE = torch.tensor([1.0] * 7 + [0.0] * 9).unsqueeze(1).expand(16, 8)
    assert rounded("score", falling_TE) == [0, 0, 0, 4, 4, 4, 8, 8]
    # What was added or dropped in all, expert by expert: 0, −1, +1, −2, −2, +1, −1, 0.
    assert rounded("balanced") == [0, 0, 4, 0, 4, 8, 4, 8]
    drawn = torch.tensor([rounded("stochastic", seed=seed) for seed in range(2000)], dtype=torch.float64)
    torch.testing.assert_close(drawn.mean(0), torch.tensor(counts).double(), rtol=0, atol=0.2)  # 4.5 standard errors
    assert rounded("stochastic", seed=5) == rounded("stochastic", seed=5)


def test_what_cannot_go_up_goes_down() -> None:
    counts, mass_TE = [7, 3], torch.rand(7, 2)
    for rounding in ROUNDINGS:
        assert round_counts(counts, mass_TE, 4, rounding)[0] == 4
        assert round_counts(counts, mass_TE, 16, rounding) == [0, 0]  # a tile of more than all tokens


@pytest.mark.parametrize("rounding", sorted(ROUNDINGS))
@pytest.mark.parametrize("bias_balanced", [False, True])
def test_rounding_takes_the_weakest_and_adds_the_best(rounding: str, bias_balanced: bool) -> None:
    made = router("token-rounding", tile=4, rounding=rounding, scale=2.0, bias_balanced=bias_balanced)
    x_TD = states(50)
    plain, routed = made(x_TD, 1, False).routing, made(x_TD, 1, True, None, TRAINING)
    routing = routed.routing
    before_TE, after_TE = table(plain, 50, 8), table(routing, 50, 8)
    assert (after_TE.sum(0) % 4 == 0).all()
    assert torch.equal(routing.counts_E, after_TE.sum(0))
    assert torch.equal(routed.report.counts_E, before_TE.sum(0))  # the balance is of what tokens chose
    assert not torch.equal(before_TE, after_TE)
    score_TE = (x_TD @ made.weight_ED.T).softmax(-1)
    choice_TE = score_TE if made.bias_E is None else score_TE + made.bias_E
    weight = {
        (t, e): s
        for t, e, s in zip(*(of.tolist() for of in (plain.unit_N, plain.expert_N, plain.score_N)), strict=True)
    }
    for e in range(8):
        before, after = (set(of_TE[:, e].nonzero().flatten().tolist()) for of_TE in (before_TE, after_TE))
        assert before <= after or after <= before  # none is displaced by one that hadn't chosen it
        kept, dropped = after & before, before - after
        if dropped:
            assert max(weight[t, e] for t in dropped) <= min((weight[t, e] for t in kept), default=math.inf)
        added, others = after - before, set(range(50)) - after - before
        if added and others:
            assert min(choice_TE[t, e] for t in added) >= max(choice_TE[t, e] for t in others)
        assert rounding != "up" or not dropped or len(before) > 48  # of 50 tokens 48 are whole tiles
        assert rounding != "down" or not added
    for t, e, s in zip(routing.unit_N.tolist(), routing.expert_N.tolist(), routing.score_N.tolist(), strict=True):
        assert s == pytest.approx(weight.get((t, e), 2.0 * score_TE[t, e].item()))


def test_tiles_of_one_row_are_plain_top_k() -> None:
    for rounding in ROUNDINGS:
        made, x_TD = router("token-rounding", tile=1, rounding=rounding), states(30)
        plain, rounded = made(x_TD, 1, False).routing, made(x_TD, 1, False, None, TRAINING).routing
        assert torch.equal(table(plain, 30, 8), table(rounded, 30, 8))
        torch.testing.assert_close(plain.score_N.sort().values, rounded.score_N.sort().values)


def test_draws_follow_the_step_and_the_layer() -> None:
    x_TD = states(60)

    def counts(layer: int, seed: int) -> list[int]:
        made = TokenRoundingRouter(config(router="token-rounding", tile=8, rounding="stochastic"), layer)
        made.weight_ED.data = router("token-rounding").weight_ED.data
        found: list[int] = made(x_TD, 1, False, None, Moment(True, 0.1, seed)).routing.counts_E.tolist()
        return found

    assert counts(0, 3) == counts(0, 3)
    assert len({tuple(counts(0, seed)) for seed in range(8)}) > 1
    assert len({tuple(counts(layer, 3)) for layer in range(8)}) > 1


# All of them.

WITH_CLOSED: list[tuple[str, dict[str, Any]]] = [
    ("softmax-topk", {}),
    ("sigmoid-topk", {"groups": 2, "top_groups": 1}),
    ("gating-residual", {}),
    ("depth-averaged", {"router_hidden": 4}),
    ("expert-choice", {}),
    *(("token-rounding", {"tile": 4, "rounding": rounding}) for rounding in sorted(ROUNDINGS)),
]


@pytest.mark.parametrize("draw", ["layer", "token"])
@pytest.mark.parametrize("closed", ["score", "logit"])
@pytest.mark.parametrize(("kind", "moe"), WITH_CLOSED)
def test_a_closed_expert_gets_nobody_whoever_chooses(kind: str, moe: dict[str, Any], closed: Any, draw: Any) -> None:
    opening = Opening(opening="linear", open_from=0.0, open_until=1.0, open_share=0.75, draw=draw, closed=closed)
    moment = Moment(True, 0.0, 11, opening)
    made, x_TD = router(kind, **moe), states(32)
    mask = closed_experts(made.config, 0, moment, 32, 2)
    assert mask is not None
    mask_TE = mask.mask.expand(32, 8)
    assert (mask_TE.sum(1) == 2).all()
    made.weight_ED.data[mask.mask if mask.mask.ndim == 1 else slice(0)] *= 5  # what is closed would be liked
    routed = made(x_TD, 2, True, None, moment)
    chosen_TE = table(routed.routing, 32, 8)
    assert not (chosen_TE & mask_TE).any()
    assert chosen_TE.any()
    assert routed.report.entropy.isfinite()
    if kind == "expert-choice":
        assert int(routed.routing.counts_E.max()) == 8  # 16 tokens · top 2 / 8 experts, of two sequences
    if kind == "token-rounding" and draw == "layer":
        assert (routed.routing.counts_E % 4 == 0).all()
    if kind not in NOT_CAUSAL:
        assert (chosen_TE.sum(1) == 2).all()


@pytest.mark.skipif(bool(why_not("cpu")), reason=why_not("cpu") or "")
@pytest.mark.parametrize("moment", [AT_REST, TRAINING], ids=["at rest", "training"])
@pytest.mark.parametrize(("kind", "moe"), WITH_CLOSED)
def test_routers_choose_by_triton_as_by_the_reference(kind: str, moe: dict[str, Any], moment: Moment) -> None:
    """Ids, scores and the gradient of the router's weights; interpreted."""
    made, x_TD, found = router(kind, **moe), states(30), []
    for backend in ("reference", "triton"):
        with kernels.use({"route_topk": backend, "round_counts": backend}):
            routing = made(x_TD, 2, False, None, moment).routing
        grads = torch.autograd.grad(routing.score_N.square().sum(), made.weight_ED)
        found.append((routing.unit_N, routing.expert_N, routing.counts_E, routing.score_N, *grads))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", sorted(NOT_CAUSAL))
def test_outside_training_what_comes_later_changes_nothing(kind: str) -> None:
    made, x_TD = router(kind, tile=4), states(40)
    whole = table(made(x_TD, 1, False, None, AT_REST).routing, 40, 8)
    assert torch.equal(whole, table(router("softmax-topk")(x_TD, 1, False).routing, 40, 8))
    for length in (1, 7, 39):
        assert torch.equal(table(made(x_TD[:length], 1, False).routing, length, 8), whole[:length])
    trained = table(made(x_TD, 1, False, None, TRAINING).routing, 40, 8)
    assert not torch.equal(trained, whole)


def test_the_report_in_closed_form() -> None:
    moe = Moe(experts=3, top_k=1, expert_hidden=4, zero=1, tau=0.5)
    logits_TE = torch.randn(6, 4, dtype=torch.float64)
    score_TE = logits_TE.softmax(-1)
    unit_N, expert_N = torch.tensor([0, 0, 1, 2, 4, 5]), torch.tensor([0, 3, 1, 1, 2, 3])
    report = router_report(moe, logits_TE, score_TE, unit_N, expert_N, 2)
    assert report.z.item() == pytest.approx(sum(math.log(sum(map(math.exp, row))) ** 2 for row in logits_TE.tolist()))
    assert report.entropy.item() == pytest.approx(-sum(p * math.log(p) for row in score_TE.tolist() for p in row))
    assert report.counts_E.tolist() == [1, 2, 1, 2]
    truth = 0.0
    for first, chosen in ((0, [0, 3, 1, 1]), (3, [2, 3])):  # tokens 0–2 and 3–5: token 3 chose nobody
        for e in range(4):
            share = chosen.count(e) / len(chosen)
            mean = sum(score_TE[t, e].item() for t in range(first, first + 3)) / 3
            truth += 3 * (1 + 1 + 1 + 1 / 0.5) * (0.5 if e == 3 else 1.0) * share * mean
    assert report.balance.item() == pytest.approx(truth)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", sorted(ROUTERS))
@pytest.mark.parametrize("moment", [AT_REST, TRAINING], ids=["at rest", "training"])
def test_what_is_no_number_breaks_nothing_and_shows_in_the_entropy(kind: Any, moment: Moment, bad: float) -> None:
    extra: dict[str, Any] = {"router_hidden": 4} if kind == "depth-averaged" else {}
    for rounding in sorted(ROUNDINGS) if kind == "token-rounding" else ["nearest"]:
        made = router(kind, tile=4, rounding=rounding, **extra)
        x_TD = states(24)
        assert made(x_TD, 2, True, None, moment).report.entropy.isfinite()
        x_TD[5, 3] = bad
        routed = made(x_TD, 2, True, None, moment)
        assert routed.report.entropy.isnan()
        assert int(routed.routing.counts_E.sum()) == len(routed.routing.unit_N)
        assert routed.routing.expert_N.numel() == 0 or int(routed.routing.expert_N.max()) < 8


def test_sigmoids_that_are_all_zero_give_no_nan() -> None:
    unit_N, score_TE = torch.arange(4), torch.zeros(4, 3)
    assert sequence_balance(score_TE, unit_N, torch.tensor([0, 1, 2, 0]), 1).item() == 0.0
