"""Gradients left in a sink are those that autograd brings, in memory that nobody else holds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from grainline import kernels
from grainline.kernels import native_experts
from grainline.kernels.sink import GradientSink, is_shared

pytestmark = pytest.mark.skipif(not native_experts.paths(), reason="no compiled core")

EXPERTS, MODEL, HIDDEN, TOKENS = 3, 32, 16, 24


def experts(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = (EXPERTS, 2, HIDDEN, MODEL), (EXPERTS, MODEL, HIDDEN)
    return [(torch.randn(size, generator=generator) / 5).to(dtype).requires_grad_() for size in sizes]


def passes(
    weights: list[Tensor], first: int, sink: GradientSink | None, queue: kernels.WeightQueue | None = None
) -> None:
    """Two micro-batches, unlike those of another `first`; the experts are used twice in each."""
    for seed in (first, first + 1):
        generator = torch.Generator().manual_seed(seed)
        x_TD = torch.randn(TOKENS, MODEL, generator=generator).requires_grad_()
        counts_E = torch.tensor([10, 0, TOKENS - 10]) if seed % 2 else torch.tensor([0, TOKENS, 0])
        once_TD = kernels.swiglu_experts(x_TD, *weights, counts_E, queue)
        out_TD = kernels.swiglu_experts(once_TD, *weights, counts_E, queue)
        with nullcontext() if sink is None else sink.collecting():
            out_TD.square().sum().backward()
        assert x_TD.grad is not None


def near(found: list[Tensor], truth: list[Tensor]) -> None:
    for mine, theirs in zip(found, truth, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-4 * float(mine.grad.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_over_micro_batches_and_steps_are_autograds_in_the_same_memory(dtype: torch.dtype) -> None:
    sunk, plain, sink, places = experts(dtype), experts(dtype), GradientSink(), set()
    for step in range(3):
        passes(sunk, 10 * step, sink)
        passes(plain, 10 * step, None)
        for mine, theirs in zip(sunk, plain, strict=True):
            assert mine.grad is not None
            assert theirs.grad is not None
            scale = float(theirs.grad.abs().max())
            torch.testing.assert_close(
                mine.grad, theirs.grad, rtol=0, atol=(1e-5 if dtype.itemsize == 4 else 2e-2) * scale
            )
        places.add(tuple(w.grad.data_ptr() for w in sunk if w.grad is not None))
        for weight in (*sunk, *plain):
            weight.grad = None  # as zero_grad does
    assert len(places) == 1


def test_what_somebody_holds_is_not_written_over() -> None:
    weights, sink = experts(), GradientSink()
    passes(weights, 0, sink)
    held = [w.grad for w in weights]
    copies = [g.clone() for g in held if g is not None]
    for weight in weights:
        weight.grad = None
    passes(weights, 5, sink)
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))
    again = experts()
    passes(again, 5, None)
    near(weights, again)


def test_zeroed_gradients_are_added_to() -> None:
    weights, plain, sink = experts(), experts(), GradientSink()
    for which, of in ((sink, weights), (None, plain)):
        passes(of, 0, which)
        for weight in of:
            assert weight.grad is not None
            weight.grad.zero_()
        passes(of, 3, which)
    near(weights, plain)


HOOKS: dict[str, Callable[[Tensor, list[int]], object]] = {
    "of the gradient": lambda w, told: w.register_hook(lambda g: told.append(1)),
    "after it is added": lambda w, told: w.register_post_accumulate_grad_hook(lambda w: told.append(1)),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_are_told(kind: str) -> None:
    weights, plain, told = experts(), experts(), list[int]()
    HOOKS[kind](weights[0], told)
    passes(weights, 0, GradientSink())
    passes(plain, 0, None)
    near(weights, plain)
    assert len(told) == 2  # once in each micro-batch


def test_queued_gradients_go_to_the_sink() -> None:
    weights, plain, queue, sink = experts(), experts(), kernels.WeightQueue(), GradientSink()
    for _ in range(2):
        with queue.collecting() as work:
            passes(weights, 0, None, queue)
        assert weights[0].grad is None
        with sink.collecting():
            for each in work:
                each()
        places = [w.grad.data_ptr() for w in weights if w.grad is not None]
        passes(plain, 0, None)
        near(weights, plain)
        for weight in (*weights, *plain):
            weight.grad = None
    assert places == [sink.place(w).gradient.data_ptr() for w in weights]


def test_frozen_weights_and_weights_of_a_graph_are_left_to_autograd() -> None:
    w13, w2 = experts()
    passes([w13.detach(), w2], 0, sink := GradientSink())
    assert w13.grad is None
    assert w2.grad is not None
    passes([w13.clone(), w2.clone()], 0, sink)
    assert w13.grad is not None


def test_a_graph_that_is_kept_gives_the_same_gradients_again() -> None:
    w13, w2 = experts()
    x_TD = torch.randn(TOKENS, MODEL, requires_grad=True)
    out_TD = kernels.swiglu_experts(x_TD, w13, w2, torch.tensor([10, 0, TOKENS - 10])).square().sum()
    first = torch.autograd.grad(out_TD, (x_TD, w13, w2), retain_graph=True)
    second = torch.autograd.grad(out_TD, (x_TD, w13, w2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(out_TD, (x_TD, w13, w2))


def test_shared_memory_is_told_from_ones_own() -> None:
    one = torch.zeros(4)
    assert not is_shared(one)
    view = one[:2]
    assert is_shared(one)
    del view
    assert not is_shared(one)
