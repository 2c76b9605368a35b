"""The expert layer that keeps little: outputs, all gradients and kept bytes, against a loop over experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from grainline.kernels import WeightQueue, grouped, sonic
from grainline.models.count import kept_by_experts

SIZE, HIDDEN = 16, 8
BACKENDS = {"sonic": sonic.HALVES.mixture, "grouped": grouped.HALVES.mixture}


class Case:
    """Lists sorted by expert, some of whose tokens have no entry and others several."""

    def __init__(self, counts: list[int], tokens: int = 23, dtype: torch.dtype = torch.float64) -> None:
        g = torch.Generator().manual_seed(sum(counts) + len(counts))

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()

        self.counts_E = torch.tensor(counts)
        self.unit_N = torch.randint(0, tokens - 2, (sum(counts),), generator=g)
        self.inputs = [
            drawn(tokens, SIZE),
            drawn(len(counts), 2, HIDDEN, SIZE),
            drawn(len(counts), SIZE, HIDDEN),
            drawn(sum(counts)),
        ]

    def run(self, op: Callable[..., Tensor], dtype: torch.dtype, queue: WeightQueue | None = None) -> list[Tensor]:
        """Output and gradients of everything, from the same values in this dtype."""
        inputs = [x.detach().to(dtype).requires_grad_() for x in self.inputs]
        out = op(*inputs, self.unit_N, self.counts_E, *([] if queue is None else [queue]))
        seed = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(dtype)
        if queue is None:
            out.backward(seed)
        else:
            with queue.collecting() as work:
                out.backward(seed)
            assert inputs[1].grad is None
            assert inputs[2].grad is None
            for each in work:
                each()
        return [out.detach(), *(x.grad if x.grad is not None else torch.zeros_like(x) for x in inputs)]


def loop(x_TD: Tensor, w13_E2FD: Tensor, w2_EDF: Tensor, score_N: Tensor, unit_N: Tensor, counts_E: Tensor) -> Tensor:
    """Entry by entry, with autograd's own gradients."""
    nothing = 0 * (x_TD.sum() + w13_E2FD.sum() + w2_EDF.sum() + score_N.sum())  # so that all have a gradient
    out = [torch.zeros_like(x) + nothing for x in x_TD]
    expert_N = torch.arange(len(counts_E)).repeat_interleave(counts_E)
    for score, unit, e in zip(score_N, unit_N.tolist(), expert_N.tolist(), strict=True):
        gate_F, up_F = w13_E2FD[e] @ x_TD[unit]
        out[unit] = out[unit] + score * (w2_EDF[e] @ (F.silu(gate_F) * up_F))
    return torch.stack(out)


def close(ours: list[Tensor], truth: list[Tensor], tolerance: float) -> None:
    for mine, theirs in zip(ours, truth, strict=True):
        error = (mine.double() - theirs).abs().max() if theirs.numel() else torch.zeros(())
        scale = theirs.abs().max() if theirs.numel() else torch.ones(())
        assert error <= tolerance * max(1.0, float(scale))


@contextmanager
def blocks_of(values: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sonic, "BLOCK_VALUES", values)
        yield


@pytest.mark.parametrize("counts", [[3, 0, 9, 1, 4], [0, 0, 5], [6], [1] * 8, [0], [0, 31, 0, 2]], ids=str)
@pytest.mark.parametrize("rows", [1, 8, 1000])
def test_everything_equals_a_loop(counts: list[int], rows: int) -> None:
    case = Case(counts)
    truth = case.run(loop, torch.float64)
    with blocks_of(rows * SIZE):
        close(case.run(sonic.HALVES.mixture, torch.float64), truth, 1e-10)
        close(case.run(sonic.HALVES.mixture, torch.float64, WeightQueue()), truth, 1e-10)


@given(st.lists(st.integers(0, 90), min_size=1, max_size=6), st.sampled_from([8, 64, 1000]))
@settings(deadline=None, max_examples=30)
def test_rows_beyond_an_experts_own_count_nothing_in_bfloat16(counts: list[int], rows: int) -> None:
    case = Case(counts, dtype=torch.bfloat16)
    truth = case.run(loop, torch.float64)
    with blocks_of(rows * SIZE):
        for op in BACKENDS.values():
            close(case.run(op, torch.bfloat16), truth, 0.05)
            close(case.run(op, torch.bfloat16, WeightQueue()), truth, 0.05)


@pytest.mark.parametrize("op", BACKENDS.values(), ids=BACKENDS)
def test_gradcheck(op: Callable[..., Tensor]) -> None:
    case = Case([2, 0, 3, 1], tokens=5)
    assert torch.autograd.gradcheck(lambda *inputs: op(*inputs, case.unit_N, case.counts_E), case.inputs)


@pytest.mark.parametrize("frozen", range(4))
def test_only_what_is_wanted_is_computed(frozen: int) -> None:
    case = Case([4, 7, 2])
    case.inputs[frozen].requires_grad_(False)
    for op in BACKENDS.values():
        truth = torch.autograd.grad(
            loop(*case.inputs, case.unit_N, case.counts_E).sum(), [x for x in case.inputs if x.requires_grad]
        )
        found = torch.autograd.grad(
            op(*case.inputs, case.unit_N, case.counts_E).sum(), [x for x in case.inputs if x.requires_grad]
        )
        close(list(found), list(truth), 1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", BACKENDS.values(), ids=BACKENDS)
def test_the_input_one_activation_and_lists_are_kept_and_nothing_else(
    op: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    """Weights are parameters in float32, as in training: no copy of them in another dtype stays either."""
    case, tokens = Case([40, 0, 72, 16], tokens=50), 50
    x, *weights, score = (x.detach().float() for x in case.inputs)
    x, weights = x.to(dtype), [w.to(torch.promote_types(dtype, torch.float32)) for w in weights]
    inputs = [each.requires_grad_() for each in (x, *weights, score)]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        out = op(*inputs, case.unit_N, case.counts_E)
    for weight in weights:
        kept.pop(weight.untyped_storage().data_ptr())
    entries, width = len(case.unit_N), dtype.itemsize
    lists = entries * (8 + 4) + 8 * len(case.counts_E)
    assert sum(kept.values()) == tokens * SIZE * width + entries * 2 * HIDDEN * width + lists
    assert sum(kept.values()) == kept_by_experts(tokens, entries, SIZE, HIDDEN, width) + 8 * len(case.counts_E)
    assert out.dtype == dtype


def test_without_gradients_nothing_is_kept_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case([5, 6])
    keeps: list[bool] = []
    halves = sonic.Halves(lambda *a, keep: keeps.append(keep) or sonic.forward(*a, keep=keep), sonic.backward)
    monkeypatch.setattr(sonic, "HALVES", halves)
    with torch.no_grad():
        quiet = sonic.HALVES.mixture(*case.inputs, case.unit_N, case.counts_E)
    torch.testing.assert_close(quiet, sonic.HALVES.mixture(*case.inputs, case.unit_N, case.counts_E))
    assert keeps == [False, True]
