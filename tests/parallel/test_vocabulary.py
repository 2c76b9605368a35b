"""The vocabulary over several ranks gives what one rank gives: loss, gradients, embeddings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.parallel.vocabulary_exchange import Answer, on_ranks, sharded, truth
from torch import Tensor

from grainline.parallel.pipeline.vocabulary import OutputLayer, add_embedding_gradient, look_up, rows_of
from grainline.schedule.passes.vocabulary import Algorithm

ALGORITHMS: tuple[Algorithm, ...] = ("vocab1", "vocab2")
N, D = 23, 8


def _inputs(vocab: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(N, D, generator=g, dtype=dtype)
    w_VD = torch.randn(vocab, D, generator=g, dtype=dtype)
    label_N = torch.randint(0, vocab, (N,), generator=g)
    label_N[::5] = -100
    return x_ND, w_VD, label_N, torch.rand(N, generator=g, dtype=torch.float64)


def _check(answers: list[Answer], expected: Answer, tolerance: float) -> None:
    d_w_VD = torch.cat([answer.d_w_VD for answer in answers])
    scale_x, scale_w = expected.d_x_ND.abs().max().clamp_min(1e-30), expected.d_w_VD.abs().max().clamp_min(1e-30)
    assert (d_w_VD - expected.d_w_VD).abs().max() / scale_w < tolerance
    for answer in answers:  # all ranks have the loss and the gradient of x
        torch.testing.assert_close(answer.loss_N.double(), expected.loss_N, rtol=tolerance, atol=tolerance)
        assert (answer.d_x_ND - expected.d_x_ND).abs().max() / scale_x < tolerance


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("vocab", [64, 61, 9, 5])  # 9 and 5 over 4 ranks: the last rank has fewer rows, or none
def test_loss_and_gradients_are_those_of_one_rank(
    algorithm: Algorithm, ranks: int, dtype: torch.dtype, tolerance: float, vocab: int
) -> None:
    inputs = _inputs(vocab, dtype)
    answers = on_ranks(ranks, lambda exchange: sharded(exchange, algorithm, *inputs))
    _check(answers, truth(*inputs), tolerance)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_chunk_of_rows_counts(algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grainline.parallel.pipeline.vocabulary.CHUNK_ROWS", 4)
    monkeypatch.setattr("grainline.parallel.pipeline.vocabulary.CHUNK_ELEMENTS", 1)
    inputs = _inputs(61, torch.float64)
    _check(on_ranks(3, lambda exchange: sharded(exchange, algorithm, *inputs)), truth(*inputs), 1e-10)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("owner", [0, 1, 2])
def test_all_targets_in_one_shard(algorithm: Algorithm, owner: int) -> None:
    x_ND, w_VD, label_N, scale_N = _inputs(30, torch.float64)
    label_N = torch.where(label_N < 0, label_N, label_N % 10 + 10 * owner)
    answers = on_ranks(3, lambda exchange: sharded(exchange, algorithm, x_ND, w_VD, label_N, scale_N))
    _check(answers, truth(x_ND, w_VD, label_N, scale_N), 1e-10)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_logits_of_ten_thousand_do_not_overflow(algorithm: Algorithm, dtype: torch.dtype, tolerance: float) -> None:
    """Logits are one column of W: exact in both types; a rank's own maximum may be 2e4 below that of all."""
    _, w_VD, label_N, scale_N = _inputs(40, dtype)
    w_VD[:, 0] = torch.linspace(-1e4, 1e4, 40).round()
    x_ND = torch.zeros(N, D, dtype=dtype)
    x_ND[:, 0] = torch.tensor([1.0, -1.0]).repeat(N)[:N]
    answers = on_ranks(4, lambda exchange: sharded(exchange, algorithm, x_ND, w_VD, label_N, scale_N))
    _check(answers, truth(x_ND, w_VD, label_N, scale_N), tolerance)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sure_prediction_keeps_its_gradient(algorithm: Algorithm) -> None:
    """With bfloat16 a probability of 0.999 rounds to 1: the label's gradient of −0.001 must not come from 1 − that."""
    x_ND, w_VD = torch.eye(4, D), torch.zeros(12, D)
    label_N, scale_N = torch.arange(4), torch.ones(4)
    w_VD[label_N, label_N] = 9.25  # exp(9.25) is about 10,000: eleven others share 0.001
    expected = truth(x_ND, w_VD, label_N, scale_N)
    answers = on_ranks(
        2, lambda exchange: sharded(exchange, algorithm, x_ND.bfloat16(), w_VD.bfloat16(), label_N, scale_N)
    )
    for answer in answers:
        torch.testing.assert_close(answer.d_x_ND.double(), expected.d_x_ND, rtol=0.02, atol=1e-8)
    d_w_VD = torch.cat([answer.d_w_VD for answer in answers])
    torch.testing.assert_close(d_w_VD.double(), expected.d_w_VD, rtol=0.02, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    ranks, vocab = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 40))
    algorithm = data.draw(st.sampled_from(ALGORITHMS))
    inputs = _inputs(vocab, torch.float64, data.draw(st.integers(0, 1000)))
    _check(on_ranks(ranks, lambda exchange: sharded(exchange, algorithm, *inputs)), truth(*inputs), 1e-9)


def test_rows_without_a_label_may_be_anything_finite() -> None:
    x_ND, w_VD, _, scale_N = _inputs(16, torch.float64)
    label_N = torch.full((N,), -100)
    for answer in on_ranks(2, lambda exchange: sharded(exchange, "vocab2", x_ND * 1e3, w_VD, label_N, scale_N)):
        assert not answer.loss_N.any()
        assert not answer.d_x_ND.any()
        assert not answer.d_w_VD.any()


def test_gradients_add_to_what_is_there_and_evaluation_leaves_none() -> None:
    x_ND, w_VD, label_N, scale_N = _inputs(20, torch.float64)

    def work(exchange: object) -> tuple[Tensor, Tensor, Tensor | None]:
        rows = rows_of(20, exchange.rank, 2)  # type: ignore[attr-defined]
        shard = torch.nn.Parameter(w_VD[rows.start : rows.stop].clone())
        layer = OutputLayer(shard, rows, "vocab1", exchange)  # type: ignore[arg-type]
        looked_at = layer.s(x_ND, label_N, scale_N, gradient=False)
        layer.c1(looked_at)
        assert shard.grad is None
        assert looked_at.p_NR is looked_at.d_x_ND is None
        shard.grad = torch.ones_like(shard)
        scoring = layer.s(x_ND, label_N, scale_N)
        layer.c1(scoring)
        layer.t(scoring)
        assert looked_at.loss_N is not None
        return looked_at.loss_N, shard.grad, scoring.p_NR

    found = on_ranks(2, work)
    expected = truth(x_ND, w_VD, label_N, scale_N)
    torch.testing.assert_close(torch.cat([gradient for _, gradient, _ in found]), expected.d_w_VD + 1)
    for loss_N, _, kept in found:
        torch.testing.assert_close(loss_N, expected.loss_N)
        assert kept is None  # the softmax is let go


def test_bfloat16_goes_with_float32_weights() -> None:
    x_ND, w_VD, label_N, scale_N = _inputs(48, torch.float32)
    answers = on_ranks(3, lambda e: sharded(e, "vocab2", x_ND.bfloat16(), w_VD, label_N, scale_N))
    expected = truth(x_ND.bfloat16(), w_VD.bfloat16(), label_N, scale_N)
    assert answers[0].d_x_ND.dtype == answers[0].d_w_VD.dtype == torch.float32
    _check(answers, expected, 0.02)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("vocab", [24, 23, 5])
def test_embeddings_and_their_gradient_are_those_of_one_rank(ranks: int, vocab: int) -> None:
    g = torch.Generator().manual_seed(ranks)
    w_VD, ids_BS = torch.randn(vocab, D, generator=g), torch.randint(0, vocab, (3, 7), generator=g)
    gradient_BSD = torch.randn(3, 7, D, generator=g)
    whole = torch.nn.Embedding.from_pretrained(w_VD.clone(), freeze=False)
    expected_BSD = whole(ids_BS)
    expected_BSD.backward(gradient_BSD)
    shards, total_BSD = [], torch.zeros(3, 7, D)
    for rank in range(ranks):
        rows = rows_of(vocab, rank, ranks)
        shard = torch.nn.Parameter(w_VD[rows.start : rows.stop].clone())
        total_BSD += look_up(shard, rows, ids_BS, torch.float32)
        for half in (slice(0, 2), slice(2, 3)):  # two micro-batches
            add_embedding_gradient(shard, rows, ids_BS[half], gradient_BSD[half])
        shards.append(shard)
    assert torch.equal(total_BSD, expected_BSD)
    assert whole.weight.grad is not None
    torch.testing.assert_close(torch.cat([s.grad for s in shards if s.grad is not None]), whole.weight.grad)


def test_a_tied_shard_takes_both_gradients() -> None:
    x_ND, w_VD, label_N, scale_N = _inputs(21, torch.float64)
    ids_N = torch.randint(0, 21, (N,), generator=torch.Generator().manual_seed(1))
    w = w_VD.clone().requires_grad_()
    losses = torch.nn.functional.cross_entropy((x_ND + w[ids_N]) @ w.t(), label_N, reduction="none", ignore_index=-100)
    (losses * scale_N).sum().backward()

    def work(exchange: object) -> Tensor:
        rows = rows_of(21, exchange.rank, 3)  # type: ignore[attr-defined]
        shard = torch.nn.Parameter(w_VD[rows.start : rows.stop].clone())
        embedded_ND = look_up(shard, rows, ids_N, torch.float64)
        exchange.all_reduce_(embedded_ND)  # type: ignore[attr-defined]
        layer = OutputLayer(shard, rows, "vocab2", exchange)  # type: ignore[arg-type]
        scoring = layer.s(x_ND + embedded_ND, label_N, scale_N)
        layer.c1(scoring)
        assert scoring.d_x_ND is not None
        add_embedding_gradient(shard, rows, ids_N, scoring.d_x_ND)
        layer.t(scoring)
        assert shard.grad is not None
        return shard.grad

    torch.testing.assert_close(torch.cat(on_ranks(3, work)), w.grad, rtol=1e-10, atol=1e-12)


def test_shards_are_cut_as_dtensor_cuts_them() -> None:
    for vocab in (1, 5, 16, 61):
        for ranks in (1, 2, 3, 4, 7):
            cut = [len(chunk) for chunk in torch.arange(vocab).chunk(ranks)]
            assert [len(rows_of(vocab, rank, ranks)) for rank in range(ranks)] == cut + [0] * (ranks - len(cut))


def test_a_shard_of_other_rows_is_refused() -> None:
    exchange = on_ranks(1, lambda e: e)[0]
    with pytest.raises(ValueError, match="a shard of 3 rows for the rows"):
        OutputLayer(torch.zeros(3, D), range(4), "vocab1", exchange)
