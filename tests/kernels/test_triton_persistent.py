"""The expert layer in one launch, against the reference in float64; on a GPU its time, too."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grainline.documents import GrainlineError
from grainline.kernels import reference
from grainline.kernels.stream.triton import why_not
from grainline.kernels.triton import persistent
from grainline.kernels.triton.tiles import Tile
from grainline.kernels.triton.tune import Inputs, Layer

interpreted = pytest.mark.skipif(bool(why_not("cpu")), reason=why_not("cpu") or "")
DEVICES = [pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=pytest.mark.gpu)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}


def draw(
    tokens: int, width: int, hidden: int, counts: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(counts))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    E, n = len(counts), sum(counts)
    w13, w2 = normal(E, 2, hidden, width) / width**0.5, normal(E, width, hidden) / hidden**0.5
    unit_N = torch.randint(0, tokens, (n,), generator=generator)
    return normal(tokens, width), w13, w2, normal(n), unit_N, torch.tensor(counts)


def close(found: Tensor, truth: Tensor, tolerance: float) -> None:
    assert found.shape == truth.shape
    assert (found.cpu().double() - truth).norm() <= tolerance * truth.norm()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "sizes",
    [(50, 40, 24, (32, 0, 37, 5)), (20, 33, 17, (0, 0, 0, 41)), (9, 16, 16, (1,) * 20), (40, 24, 16, (0, 0))],
    ids=["ragged", "one expert has all rows", "one row each", "no rows"],
)
def test_one_launch_equals_the_reference(
    sizes: tuple[int, int, int, tuple[int, ...]], dtype: torch.dtype, device: str
) -> None:
    if dtype == torch.float64 and device == "cuda":
        pytest.skip("the kernels take float64 in the interpreter alone")
    *floats, unit_N, counts_E = draw(*sizes)
    x, w13, w2, score = narrow = [each.to(device, dtype) for each in floats]
    found = persistent.expert_mixture(x, w13, w2, score, unit_N.to(device), counts_E.to(device))
    assert found.dtype == dtype
    x, w13, w2, score = (each.cpu().double() for each in narrow)
    close(found, reference.expert_mixture(x, w13, w2, score, unit_N, counts_E), TOLERANCE[dtype])


@interpreted
@settings(max_examples=8, deadline=None)
@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=5),
    tokens=st.integers(1, 40),
    width=st.integers(1, 40),
    hidden=st.integers(1, 36),
    programs=st.integers(1, 4),
)
def test_any_sizes_and_any_grid_will_do(counts: list[int], tokens: int, width: int, hidden: int, programs: int) -> None:
    inputs = draw(tokens, width, hidden, tuple(counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(persistent, "INTERPRETED_PROGRAMS", programs)
        found = persistent.one_launch(*inputs, Tile(16, 16, 16, group=2))
    close(found, reference.expert_mixture(*inputs), 1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_input_gives_the_same_bits(device: str) -> None:
    *floats, unit_N, counts_E = draw(50, 40, 24, (32, 0, 37, 5))
    x, w13, w2, score = (x.to(device, torch.float32) for x in floats)
    first, again = (persistent.one_launch(x, w13, w2, score, unit_N.to(device), counts_E.to(device)) for _ in range(2))
    assert torch.equal(first, again)


@interpreted
def test_with_gradients_it_is_the_layer_of_several_launches() -> None:
    x, w13, w2, score, unit_N, counts_E = draw(20, 33, 17, (0, 5, 9))
    leaves = [each.requires_grad_() for each in (x, w13, w2, score)]
    found = torch.autograd.grad(persistent.expert_mixture(x, w13, w2, score, unit_N, counts_E).sum(), leaves)
    truth = torch.autograd.grad(reference.expert_mixture(x, w13, w2, score, unit_N, counts_E).sum(), leaves)
    for mine, expected in zip(found, truth, strict=True):
        close(mine, expected, 1e-10)


def test_without_triton_or_its_interpreter_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(GrainlineError, match=r"one Triton kernel: triton .*Other backends: grouped, sonic, reference"):
        persistent.expert_mixture(*draw(4, 4, 4, (3,)))


@pytest.mark.gpu
def test_time_is_flat_in_the_number_of_experts() -> None:
    """16,384 tokens, top-2, D = F = 2048 (the paper's figure 14): 8 to 128 experts at most 1.25 times apart."""
    from grainline.kernels.triton.tune import gpu_clock

    def once(experts: int) -> float:
        drawn = Inputs.draw(Layer(16384, 2048, 2048, experts, 2), torch.bfloat16, torch.device("cuda"))
        inputs = drawn.x_TD, drawn.w13_E2FD, drawn.w2_EDF, drawn.score_N, drawn.unit_N, drawn.counts_E
        return statistics.median(gpu_clock(lambda: persistent.one_launch(*inputs)) for _ in range(3))

    seconds = {experts: once(experts) for experts in (8, 32, 128)}
    assert max(seconds.values()) <= 1.25 * min(seconds.values()), seconds
