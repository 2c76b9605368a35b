"""Paged keys and values: against dense attention, and as bookkeeping against a plain list of tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from torch import Tensor

from grainline import kernels
from grainline.documents import GrainlineError
from grainline.kernels import native_ops, reference
from grainline.kernels.paged import PagedKv

BACKENDS = [("reference", None), *(("native", name) for name in native_ops.instruction_sets())]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


@pytest.fixture(params=BACKENDS, ids=lambda each: each[1] or each[0])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    name, instruction_set = request.param
    with kernels.use({"attention_decode": name}):
        if instruction_set is None:
            yield name
        else:
            with native_ops.using(instruction_set):
                yield name


def dense_attention(q_Hh: Tensor, k_LGh: Tensor, v_LGv: Tensor, scale: float) -> Tensor:
    """Head by head."""
    shared, rows = len(q_Hh) // k_LGh.shape[1], []
    for head, q_h in enumerate(q_Hh.double()):
        k_Lh, v_Lv = k_LGh[:, head // shared].double(), v_LGv[:, head // shared].double()
        rows.append((scale * k_Lh @ q_h).softmax(0) @ v_Lv)
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize(
    ("heads", "groups", "key_size", "value_size", "page_tokens"),
    [(8, 2, 64, 64, 16), (3, 3, 24, 40, 7), (12, 1, 33, 5, 64), (5, 5, 16, 16, 1), (16, 2, 128, 128, 32)],
)
def test_attention_over_pages_is_dense_attention(
    backend: str, heads: int, groups: int, key_size: int, value_size: int, page_tokens: int, dtype: torch.dtype
) -> None:
    kv = PagedKv(2, 400, page_tokens, groups, key_size, value_size, dtype)
    lengths, sequences = [1, 100, 37, page_tokens], []
    for number, length in enumerate(lengths):  # in turns, so that pages mix
        sequences.append(kv.begin())
        kv.extend(sequences[-1], length // 2)
        halves = [drawn(length // 2, groups, size, seed=number) for size in (key_size, value_size)]
        for layer in range(2):
            kv.put(layer, sequences[-1], *(x + layer for x in halves))
    for number, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
        rest = [drawn(length - length // 2, groups, size, seed=9 + number) for size in (key_size, value_size)]
        kv.extend(sequence, length - length // 2)
        for layer in range(2):
            kv.put(layer, sequence, *(x + layer for x in rest))
    query_dtype = torch.float32 if dtype == torch.int8 else dtype
    q_BHh, table = drawn(4, heads, key_size).to(query_dtype), kv.table(sequences)
    for layer in range(2):
        out_BHv = kv.attend(layer, q_BHh, *table, 0.3)
        assert out_BHv.dtype == query_dtype
        truth = torch.stack(
            [dense_attention(q, *kv.gather(layer, s), 0.3) for q, s in zip(q_BHh, sequences, strict=True)]
        )
        tolerance = TOLERANCE[query_dtype] * max(1.0, truth.abs().max().item())
        torch.testing.assert_close(out_BHv.double(), truth, rtol=0, atol=tolerance)


def test_a_sequence_without_tokens_gets_zeros_and_disturbs_nobody(backend: str) -> None:
    kv = PagedKv(1, 4, 8, 1, 16)
    empty, full = kv.begin(), kv.begin()
    kv.extend(full, 9)
    kv.put(0, full, drawn(9, 1, 16), drawn(9, 1, 16, seed=1))
    out_BHv = kv.attend(0, drawn(2, 2, 16).float(), *kv.table([empty, full]), 1.0)
    assert torch.equal(out_BHv[0], torch.zeros(2, 16))
    truth = dense_attention(drawn(2, 2, 16)[1], *kv.gather(0, full), 1.0)
    torch.testing.assert_close(out_BHv[1].double(), truth, rtol=0, atol=1e-5)


def test_a_nan_key_makes_its_heads_nan_as_softmax_does(backend: str) -> None:
    kv = PagedKv(1, 4, 8, 2, 16)
    sequence = kv.begin()
    kv.extend(sequence, 5)
    k = drawn(5, 2, 16)
    k[3, 1, 0] = torch.nan
    kv.put(0, sequence, k, drawn(5, 2, 16))
    out_BHv = kv.attend(0, drawn(1, 4, 16).float(), *kv.table([sequence]), 1.0)
    assert out_BHv[0, :2].isfinite().all()
    assert out_BHv[0, 2:].isnan().all()


def test_int8_pages_are_off_by_half_a_step_at_most() -> None:
    kv = PagedKv(1, 4, 8, 3, 16, dtype=torch.int8)
    sequence, k, v = kv.begin(), drawn(6, 3, 16), drawn(6, 3, 16, seed=1)
    v[2] = 0
    kv.extend(sequence, 6)
    kv.put(0, sequence, k, v)
    for exact, found in zip((k, v), kv.gather(0, sequence), strict=True):
        step = exact.abs().amax(-1, keepdim=True) / 127
        assert ((found.double() - exact).abs() <= step / 2 + 1e-6).all()


@pytest.mark.skipif(len(BACKENDS) == 1, reason="needs the compiled core")
@pytest.mark.parametrize(("length", "page"), [(-1, 0), (17, 0), (5, 4), (5, -1)])
def test_lengths_and_pages_out_of_range_are_refused(length: int, page: int) -> None:
    pages = torch.zeros(4, 8, 1, 16)
    table, lengths = torch.tensor([[0, 1], [page, 1]]), torch.tensor([16, length])
    with pytest.raises(GrainlineError, match=r"sequence 1: .* out of range; there are 4 pages of 8 tokens"):
        kernels.BACKENDS["attention_decode"]["native"](torch.zeros(2, 1, 16), pages, pages, table, lengths, 1.0)


@pytest.mark.skipif(len(BACKENDS) == 1, reason="needs the compiled core")
def test_pages_may_be_any_view_with_contiguous_heads() -> None:
    q, table, lengths = drawn(1, 4, 8).float(), torch.tensor([[2, 0]]), torch.tensor([9])
    joint = drawn(3, 6, 2, 20).float()
    views = [(joint[..., :8], joint[..., 9:20]), (joint.transpose(1, 2).contiguous().transpose(1, 2)[..., :8],) * 2]
    views.append((drawn(3, 6, 8, 2).float().transpose(2, 3),) * 2)
    for k, v in views:
        ours, truth = (
            kernels.BACKENDS["attention_decode"][b](q, k, v, table, lengths, 1.0) for b in ("native", "reference")
        )
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5)


def test_pages_that_run_out_are_told_and_nothing_is_taken() -> None:
    kv = PagedKv(1, 3, 4, 1, 8)
    sequence = kv.begin()
    kv.extend(sequence, 5)
    with pytest.raises(GrainlineError, match="8 more tokens need 2 more pages, and 1 are free"):
        kv.extend(sequence, 8)
    assert (kv.length(sequence), kv.free_pages) == (5, 1)
    with pytest.raises(GrainlineError, match="6 tokens to write, and it has 5"):
        kv.put(0, sequence, torch.zeros(6, 1, 8), torch.zeros(6, 1, 8))
    kv.free(sequence)
    with pytest.raises(GrainlineError, match=f"sequence {sequence}: there is none"):
        kv.extend(sequence, 1)


def test_the_kernel_and_the_reference_agree_on_table_padding() -> None:
    table_BM, length_B = PagedKv(1, 2, 4, 1, 8).table([])
    assert table_BM.shape == (0, 0)
    assert length_B.shape == (0,)
    assert reference.attention_decode is kernels.BACKENDS["attention_decode"]["reference"]


class Bookkeeping(RuleBasedStateMachine):
    """Any order of calls leaves every sequence with exactly its tokens, and no page with two owners."""

    def __init__(self) -> None:
        super().__init__()
        self.kv, self.tokens, self.drawn = PagedKv(1, 12, 4, 1, 1), dict[int, list[float]](), 0

    @rule()
    def begin(self) -> None:
        self.tokens[self.kv.begin()] = []

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), count=st.integers(0, 9))
    def append(self, data: st.DataObject, count: int) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.tokens)))
        new = [float(self.drawn + i) for i in range(count)]
        try:
            self.kv.extend(sequence, count)
        except GrainlineError:
            held = sum(-(-len(of) // 4) for of in self.tokens.values())
            assert held - -(-len(self.tokens[sequence]) // 4) + -(-(len(self.tokens[sequence]) + count) // 4) > 12
            return
        self.drawn += count
        self.kv.put(0, sequence, torch.tensor(new).view(-1, 1, 1), -torch.tensor(new).view(-1, 1, 1))
        self.tokens[sequence] += new

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), length=st.integers(0, 20))
    def truncate(self, data: st.DataObject, length: int) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.tokens)))
        self.kv.truncate(sequence, length)
        del self.tokens[sequence][length:]

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.tokens)))
        self.kv.free(sequence)
        del self.tokens[sequence]

    @invariant()
    def each_has_its_tokens(self) -> None:
        for sequence, of in self.tokens.items():
            k, v = self.kv.gather(0, sequence)
            assert k.flatten().tolist() == of
            assert (-v).flatten().tolist() == of
        assert self.kv.free_pages == 12 - sum(-(-len(of) // 4) for of in self.tokens.values())


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
