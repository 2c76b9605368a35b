"""A mixture of unlike experts against a loop over texts, the published sizes, and closed forms of its terms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grainline.documents import DocumentError, GrainlineError
from grainline.documents.classification import ClassificationRecipe, Head
from grainline.models.build import build
from grainline.models.dial import config_for_depth, dense_twin
from grainline.models.heads.encoders import Classifier, DecoderEncoder, EmbeddingEncoder
from grainline.models.heads.experts import EXPERTS
from grainline.models.heads.mixture import HectoHead, gate_terms
from grainline.models.heads.views import Views

WIDTH, CLASSES = 7, 3
KINDS = [("ffn", "gru"), ("ffn", "ffn"), ("gru", "gru"), ("ffn", "gru", "ffn-mean")]


def head(kinds=("ffn", "gru"), seed=0, **keys):
    torch.manual_seed(seed)
    made = HectoHead(Head(experts=kinds, proj=5, hidden=4, **keys), WIDTH, CLASSES).double()
    for parameter in made.parameters():
        parameter.data.mul_(2.0)
    for even in (made.pooled_proj, made.gate):
        even.bias.data.zero_()  # so that every expert is chosen by some
    return made


def views(rows=6, length=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sequence_BSD = torch.randn(rows, length, WIDTH, generator=generator, dtype=torch.float64)
    length_B = torch.randint(1, length + 1, (rows,), generator=generator)
    return Views(torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64), sequence_BSD, length_B)


def alone(made, given_, row):
    """What each expert says of one text, by itself and without padding: [E, C]; and the gate's probabilities [E]."""
    pooled_P = made.pooled_proj(given_.pooled_BD[row])
    said = []
    for kind, expert in zip(made.config.experts, made.experts, strict=True):
        states_SP = made.sequence_proj(given_.sequence_BSD[row, : given_.length_B[row]]) if made.sequence_proj else None
        if kind == "gru":
            state_H = torch.zeros(4, dtype=torch.float64)
            gru = expert.gru
            for x_P in states_SP:
                i, h = gru.weight_ih_l0 @ x_P + gru.bias_ih_l0, gru.weight_hh_l0 @ state_H + gru.bias_hh_l0
                reset, update = ((i[k : k + 4] + h[k : k + 4]).sigmoid() for k in (0, 4))
                new = (i[8:] + reset * h[8:]).tanh()
                state_H = (1 - update) * new + update * state_H
            said.append(expert.down(state_H))
        else:
            seen_P = pooled_P if kind == "ffn" else states_SP.mean(0)
            said.append(expert.down.weight @ (expert.up.weight @ seen_P + expert.up.bias).tanh() + expert.down.bias)
    logits_E = (made.gate.weight @ pooled_P + made.gate.bias) / made.config.temperature
    return torch.stack(said), logits_E.exp() / logits_E.exp().sum()


def gradients(made, loss):
    made.zero_grad()
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in made.named_parameters()}


@pytest.mark.parametrize("gradient", ["straight-through", "scaled"])
@pytest.mark.parametrize("kinds", KINDS)
def test_training_equals_a_loop_over_texts(kinds, gradient):
    made, given_ = head(kinds, gradient=gradient), views()
    answered = made(given_)
    mix_BC = torch.randn(6, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = gradients(made, (answered.out_BC * mix_BC).sum())
    truth = []
    for row in range(6):
        said_EC, gate_E = alone(made, given_, row)
        best = int(gate_E.argmax())
        torch.testing.assert_close(answered.gate_BE[row], gate_E)
        assert answered.expert_B[row] == best
        if gradient == "scaled":
            truth.append(gate_E[best] * said_EC[best])
        else:
            torch.testing.assert_close(answered.out_BC[row], said_EC[best], rtol=1e-12, atol=1e-14)
            # The chosen one's answer, and the gate's gradient of the whole mixture.
            truth.append(said_EC[best] + (gate_E - gate_E.detach()) @ said_EC.detach())
    torch.testing.assert_close(answered.out_BC, torch.stack(truth), rtol=1e-12, atol=1e-14)
    expected = gradients(made, (torch.stack(truth) * mix_BC).sum())
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-13, msg=name)


def test_straight_through_gates_learn_as_in_the_soft_mixture():
    made, given_ = head(), views(rows=12)
    answered = made(given_)
    ours = gradients(made, answered.out_BC.sum())
    soft = sum((gate_E @ said_EC).sum() for said_EC, gate_E in (alone(made, given_, row) for row in range(12)))
    theirs = gradients(made, soft)
    assert answered.expert_B.unique().numel() == 2
    for name in ("gate.weight", "gate.bias"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kinds", KINDS)
def test_inference_runs_each_expert_on_its_own_rows_alone(kinds):
    made, given_ = head(kinds).eval(), views()
    seen = {}
    for i, expert in enumerate(made.experts):
        expert.register_forward_pre_hook(lambda _, args, i=i: seen.update({i: len(args[0])}))
    answered = made(given_)
    for row in range(6):
        said_EC, gate_E = alone(made, given_, row)
        torch.testing.assert_close(answered.out_BC[row], said_EC[gate_E.argmax()], rtol=1e-10, atol=1e-13)
    assert seen == {i: int((answered.expert_B == i).sum()) for i in set(answered.expert_B.tolist())}


@given(st.permutations(range(6)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_a_batch_changes_nothing(order):
    made, given_ = head().eval(), views()
    there = Views(given_.pooled_BD[order], given_.sequence_BSD[order], given_.length_B[order])
    torch.testing.assert_close(made(there).out_BC, made(given_).out_BC[order], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("gradient", ["straight-through", "scaled"])
@pytest.mark.parametrize("certain", [0, 1])
def test_a_gate_that_is_certain_is_the_single_expert(certain, gradient):
    made, given_ = head(gradient=gradient), views()
    made.gate.weight.data.zero_()
    made.gate.bias.data.copy_(torch.tensor([1e4, -1e4]) * (1 - 2 * certain))
    single = head((made.config.experts[certain],), gradient=gradient)
    single.experts[0].load_state_dict(made.experts[certain].state_dict())
    for projection in ("pooled_proj", "sequence_proj"):
        if getattr(single, projection) is not None:
            getattr(single, projection).load_state_dict(getattr(made, projection).state_dict())
    for training in (True, False):  # one expert gets no rows, which must work
        torch.testing.assert_close(made.train(training)(given_).out_BC, single.train(training)(given_).out_BC)


def test_sizes_are_the_published_ones():
    made = HectoHead(Head(), 768, 4)
    counts = [sum(p.numel() for p in part.parameters()) for part in (*made.experts, made.gate)]
    assert counts == [33_412, 148_740, 514]
    ffn, gru = made.experts
    assert round(ffn.flops(64) / 1e3, 1) == 66.6
    assert [round(gru.flops(length) / ffn.flops(length)) for length in (64, 128)] == [284, 567]
    matched = EXPERTS["ffn"](256, 570, 4)
    assert sum(p.numel() for p in matched.parameters()) == pytest.approx(counts[1], rel=0.01)


def test_terms_are_none_where_texts_are_decided_and_the_batch_is_even():
    decided = torch.eye(2, dtype=torch.float64).repeat(4, 1)
    undecided = torch.full((8, 2), 0.5, dtype=torch.float64)
    assert [float(v) for v in vars(gate_terms(decided)).values()] == [0.0, 0.0]
    assert [float(v) for v in vars(gate_terms(undecided)).values()] == pytest.approx([math.log(2), 0.0])
    assert gate_terms(torch.eye(2)[[0, 0, 0]]).diversity.item() == pytest.approx(0.5)


def test_gradients_of_the_terms_are_finite_differences():
    logits_BE = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    for part in ("entropy", "diversity"):
        assert torch.autograd.gradcheck(lambda x, part=part: getattr(gate_terms(x.softmax(-1)), part), logits_BE)


def test_parts_of_a_batch_on_two_ranks_add_up_to_the_whole():
    logits_BE = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    whole = gate_terms(logits_BE.softmax(-1))
    (whole.entropy + whole.diversity).backward()
    expected, logits_BE.grad = logits_BE.grad.clone(), None
    sums = [part.detach().softmax(-1).sum(0) for part in (logits_BE[:2], logits_BE[2:])]
    entropy = 0.0
    for rank, rows in enumerate((slice(0, 2), slice(2, 6))):
        terms = gate_terms(logits_BE[rows].softmax(-1), 6, lambda t, other=sums[1 - rank]: t.add_(other))
        entropy += terms.entropy.item()
        torch.testing.assert_close(terms.diversity, whole.diversity)
        (terms.entropy + terms.diversity).backward()
    assert entropy == pytest.approx(whole.entropy.item())
    torch.testing.assert_close(logits_BE.grad, expected)


@pytest.mark.parametrize("pooled", ["last", "mean"])
def test_padding_changes_nothing_that_a_decoder_shows(pooled):
    config = dense_twin(config_for_depth(2, 300, 32)).model_copy(update={"mtp_depth": 0})
    encoder = DecoderEncoder(build(config, dtype=torch.float64), pooled)
    classifier = Classifier(encoder, HectoHead(Head(proj=5, hidden=4), encoder.width, 2).double()).eval()
    ids_BS, length_B = torch.randint(0, 300, (3, 9)), torch.tensor([9, 4, 1])
    answered = classifier(ids_BS, length_B)
    for row, length in enumerate(length_B.tolist()):
        one = classifier(ids_BS[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(answered.out_BC[row], one.out_BC[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(answered.gate_BE[row], one.gate_BE[0], rtol=1e-9, atol=1e-12)


def test_random_embeddings_pool_without_order():
    encoder = EmbeddingEncoder(20, 6)
    ids_BS, length_B = torch.tensor([[1, 2, 3, 4, 0], [1, 4, 2, 3, 9]]), torch.tensor([4, 4])
    given_ = encoder(ids_BS, length_B)
    torch.testing.assert_close(given_.pooled_BD[0], given_.pooled_BD[1])
    assert not torch.equal(given_.sequence_BSD[0], given_.sequence_BSD[1])
    assert not list(encoder.parameters())


def test_a_frozen_encoder_learns_nothing():
    config = dense_twin(config_for_depth(2, 300, 32)).model_copy(update={"mtp_depth": 0})
    encoder = DecoderEncoder(build(config), frozen=True)
    classifier = Classifier(encoder, HectoHead(Head(proj=5, hidden=4), encoder.width, 2))
    classifier(torch.randint(0, 300, (4, 6)), torch.tensor([6, 3, 2, 1])).out_BC.sum().backward()
    assert all(p.grad is None for p in encoder.parameters())
    assert classifier.head.pooled_proj.weight.grad is not None


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (Views(torch.zeros(2, WIDTH).double()), "gives only one for the whole text"),
        (Views(torch.zeros(2, WIDTH).double(), torch.zeros(2, 3, WIDTH).double()), "or it would read padding"),
        (
            Views(torch.zeros(2, WIDTH).double(), torch.zeros(2, 3, WIDTH).double(), torch.tensor([3, 0])),
            "Text 1 of the batch has no tokens",
        ),
        (
            Views(torch.full((1, WIDTH), torch.nan).double(), torch.zeros(1, 3, WIDTH).double(), torch.tensor([3])),
            "aren't numbers",
        ),
    ],
)
def test_views_that_cannot_be_read_are_refused(given_, message):
    with pytest.raises(GrainlineError, match=message):
        head()(given_)


def test_experts_that_need_no_order_do_without_it():
    assert head(("ffn", "ffn"))(Views(torch.randn(2, WIDTH).double())).out_BC.shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"experts": ["ffn", "lstm"]}, "lstm"),
        ({"experts": []}, "at least one"),
        ({"temperature": 0}, "greater than 0"),
        ({"hidden": [128]}, "1 widths for 2 experts"),
        ({"unit": "token"}, "unit"),
    ],
)
def test_heads_that_cannot_be_are_refused(keys, message):
    tables = {"encoder": {"depth": 2}, "learning_rate": {"peak": 0.1}, "head": keys}
    with pytest.raises(DocumentError, match=message):
        ClassificationRecipe.parse(tables, "c.toml")
