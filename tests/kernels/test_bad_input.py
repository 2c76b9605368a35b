"""Tensors that lie anywhere, no tokens, one expert with all, more threads than cores: every backend is the same."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from grainline import kernels
from grainline.documents import GrainlineError
from grainline.kernels.stream.triton import why_not

E, D, F, T = 4, 16, 8, 6
EXPERTS = [name for name in kernels.BACKENDS["expert_mixture"] if name != "triton" or not why_not("cpu")]
CHOOSERS = [name for name in kernels.BACKENDS["route_topk"] if name != "triton" or not why_not("cpu")]


def misaligned(x: Tensor) -> Tensor:
    """The same numbers from an odd address on."""
    memory = bytearray(x.numel() * x.element_size() + 1)
    there = torch.frombuffer(memory, dtype=x.dtype, offset=1, count=x.numel()).view(x.shape)
    there.copy_(x)
    assert there.data_ptr() % x.element_size()
    return there


def strided(x: Tensor) -> Tensor:
    """Every second number of a larger tensor."""
    return torch.stack((x, x), -1)[..., 0]


def case(tokens: int, counts: tuple[int, ...], dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor]:
    """(x, w13, w2, score), units, counts."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((tokens, D), (E, 2, F, D), (E, D, F))
    tensors = [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]
    rows = sum(counts)
    units_N = torch.randint(0, max(tokens, 1), (rows,), generator=draw)
    return [*tensors, torch.rand(rows, generator=draw)], units_N, torch.tensor(counts)


def computed(tensors: list[Tensor], units_N: Tensor, counts_E: Tensor, backend: str) -> list[Tensor]:
    """Output and all gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with kernels.use({"expert_mixture": backend}):
        out_TD = kernels.expert_mixture(*leaves, units_N, counts_E)
    return [out_TD, *torch.autograd.grad(out_TD.float().square().sum(), leaves)]


def off(found: Tensor, expected: Tensor) -> float:
    """Of the norm; 0 / 0 is 0."""
    found, expected = found.detach().float(), expected.detach()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


@pytest.mark.parametrize("lying", [misaligned, strided])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", EXPERTS)
def test_experts_take_tensors_that_lie_anywhere(
    backend: str, dtype: torch.dtype, lying: Callable[[Tensor], Tensor]
) -> None:
    tensors, units_N, counts_E = case(T, (3, 0, 9, 0), dtype)
    found = computed([lying(tensor) for tensor in tensors], units_N, counts_E, backend)
    expected = computed([tensor.float() for tensor in tensors], units_N, counts_E, "reference")
    for ours, theirs in zip(found, expected, strict=True):
        assert off(ours, theirs) < (1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", EXPERTS)
@pytest.mark.parametrize(("tokens", "counts"), [(0, (0, 0, 0, 0)), (T, (0, 0, 0, 0)), (T, (0, 0, T, 0))])
def test_no_tokens_no_rows_and_one_expert_with_all(
    backend: str, dtype: torch.dtype, tokens: int, counts: tuple[int, ...]
) -> None:
    tensors, units_N, counts_E = case(tokens, counts, dtype)
    found = computed(tensors, units_N, counts_E, backend)
    expected = computed([tensor.float() for tensor in tensors], units_N, counts_E, "reference")
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert off(ours, theirs) < (1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("backend", CHOOSERS)
def test_more_experts_than_there_are_cannot_be_chosen(backend: str) -> None:
    with kernels.use({"route_topk": backend}):
        with pytest.raises(GrainlineError, match="5 experts can't be chosen of 4"):
            kernels.route_topk(torch.randn(3, 4), 5)
        for score_TE in (torch.randn(9, 4), strided(torch.randn(9, 4)), misaligned(torch.randn(9, 4))):
            expert_TK, score_TK = kernels.route_topk(score_TE, 4)
            assert torch.equal(score_TK, score_TE.sort(-1, descending=True).values)
            assert torch.equal(score_TE.gather(1, expert_TK), score_TK)


@pytest.mark.parametrize("backend", EXPERTS)
def test_more_threads_than_cores_change_nothing(backend: str) -> None:
    tensors, units_N, counts_E = case(40, (30, 0, 9, 25), torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 4 * (os.cpu_count() or 1) + 1):
            torch.set_num_threads(threads)
            found.append(computed(tensors, units_N, counts_E, backend))
    finally:
        torch.set_num_threads(before)
    for one, many in zip(*found, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-5)
