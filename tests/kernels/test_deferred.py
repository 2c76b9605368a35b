"""A backward that leaves weights' gradients for later comes to the same, and to nothing before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from grainline import kernels
from grainline.kernels import WeightQueue

COUNTS_E = torch.tensor([3, 0, 4])
LABEL_N = torch.tensor([1, 4, -100, 0, 2, 3, 3])


def _draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


Op = Callable[[Tensor, list[Tensor], WeightQueue | None], Tensor]
OPS: dict[str, tuple[Op, list[tuple[int, ...]]]] = {
    "linear": (lambda x, w, queue: kernels.linear(x, w[0], queue), [(5, 8)]),
    "stacked linear": (
        lambda x, w, queue: kernels.linear(x, w[0].flatten(0, 1) if queue is None else w[0], queue),
        [(2, 5, 8)],
    ),
    "swiglu": (lambda x, w, queue: kernels.swiglu(x, w[0], w[1], queue), [(2, 6, 8), (8, 6)]),
    "experts": (lambda x, w, queue: kernels.swiglu_experts(x, w[0], w[1], COUNTS_E, queue), [(3, 2, 6, 8), (3, 8, 6)]),
    "cross-entropy": (lambda x, w, queue: kernels.linear_cross_entropy(x, w[0], LABEL_N, queue), [(5, 8)]),
}


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_are_those_of_a_whole_backward(name: str, dtype: torch.dtype) -> None:
    op, shapes = OPS[name]

    def run(queue: WeightQueue | None, how: str) -> tuple[Tensor, list[Tensor], list[Callable[[], None]]]:
        wide = torch.float64 if dtype == torch.float64 else torch.float32  # parameters are float32 under bfloat16
        x = _draw(7, 8, dtype=dtype).requires_grad_()
        weights = [_draw(*shape, dtype=wide).requires_grad_() for shape in shapes]
        work: list[Callable[[], None]] = []
        for _ in range(2):  # gradients add up
            out = op(x, weights, queue)
            if how == "deferred":
                assert queue is not None
                with queue.collecting() as now:
                    out.backward(torch.ones_like(out))
                assert all(w.grad is None for w in weights)
                work += now
            else:
                out.backward(torch.ones_like(out))
        assert x.grad is not None
        for each in work:
            each()
        return x.grad, [w.grad for w in weights if w.grad is not None], work

    d_x, d_weights, _ = run(None, "whole")
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for how in ("deferred", "at once"):
        d_x_again, again, work = run(WeightQueue(), how)
        assert bool(work) == (how == "deferred")
        assert len(again) == len(d_weights)
        for found, expected in zip((d_x_again, *again), (d_x, *d_weights), strict=True):
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def test_a_weight_that_learns_nothing_gets_no_gradient() -> None:
    x, weight, queue = _draw(4, 8).requires_grad_(), _draw(5, 8), WeightQueue()
    with queue.collecting() as work:
        kernels.linear(x, weight, queue).sum().backward()
    assert not work
    assert weight.grad is None
    assert x.grad is not None
