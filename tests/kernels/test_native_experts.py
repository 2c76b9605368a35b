"""The experts of the compiled core against the reference in float64, on every instruction set that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from grainline import kernels
from grainline.documents import GrainlineError
from grainline.kernels import native_experts, reference
from grainline.kernels.coded import quantize_experts

pytestmark = pytest.mark.skipif(not native_experts.paths(), reason="no compiled core")

CASES = {  # counts, tokens, D, F
    "few": ([3, 0, 9, 1, 4], 17, 32, 32),
    "no multiple of anything": ([3, 0, 90, 1, 40], 60, 37, 19),
    "more than a block of rows and of columns": ([400, 1, 500], 100, 150, 290),
    "one takes all": ([0, 0, 200, 0], 30, 48, 64),
    "one entry": ([1, 0], 1, 130, 33),
    "no entry": ([0, 0], 5, 16, 16),
    "no token": ([0, 0], 0, 16, 16),
}
DTYPES = [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


@pytest.fixture(params=native_experts.paths())
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(native_experts.PATH, request.param)
    return str(request.param)


def draw(
    counts: list[int], tokens: int, model: int, hidden: int, dtype: torch.dtype, weights: torch.dtype
) -> tuple[list[Tensor], Tensor, Tensor]:
    """x, w13, w2 and scores; tokens of the entries; counts."""
    generator = torch.Generator().manual_seed(sum(counts) + model)
    experts, entries = len(counts), sum(counts)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    unit_N = torch.randint(0, max(1, tokens), (entries,), generator=generator)
    w13, w2 = normal(experts, 2, hidden, model) / model**0.5, normal(experts, model, hidden) / hidden**0.5
    inputs = [normal(tokens, model).to(dtype), w13.to(weights), w2.to(weights), normal(entries)]
    return inputs, unit_N, torch.tensor(counts)


def outputs_and_gradients(op, inputs: list[Tensor], *lists: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
    leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs]
    out = op(*leaves, *lists)
    seed = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, seed)]


def assert_near(ours: list[Tensor], truth: list[Tensor], tolerance: float) -> None:
    for mine, theirs in zip(ours, truth, strict=True):
        scale = theirs.abs().max().item() if theirs.numel() else 0.0
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "weights"), DTYPES)
def test_mixture_and_its_gradients_equal_the_reference(
    path: str, case: str, dtype: torch.dtype, weights: torch.dtype
) -> None:
    inputs, unit_N, counts_E = draw(*CASES[case], dtype, weights)
    truth = outputs_and_gradients(reference.expert_mixture, inputs, unit_N, counts_E, dtype=torch.float64)
    ours = outputs_and_gradients(native_experts.HALVES.mixture, inputs, unit_N, counts_E)
    assert [x.dtype for x in ours] == [dtype, dtype, weights, weights, torch.float32]
    assert_near(ours, truth, TOLERANCE[dtype])
    with torch.no_grad():
        assert torch.equal(native_experts.HALVES.mixture(*inputs, unit_N, counts_E), ours[0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_equal_the_reference(path: str, case: str, dtype: torch.dtype) -> None:
    counts, _, model, hidden = CASES[case]
    (x, w13, w2, _), _, counts_E = draw(counts, sum(counts), model, hidden, dtype, dtype)
    truth = outputs_and_gradients(reference.swiglu_experts, [x, w13, w2], counts_E, dtype=torch.float64)
    ours = outputs_and_gradients(native_experts.HALVES.rows, [x, w13, w2], counts_E)
    assert_near(ours, truth, TOLERANCE[dtype])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [16, 128])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_compute_as_the_weights_that_they_stand_for(
    path: str, bits: int, group: int, case: str, dtype: torch.dtype
) -> None:
    (x, w13, w2, score), unit_N, counts_E = draw(*CASES[case], dtype, torch.float32)
    coded = [quantize_experts(w, bits, group) for w in (w13, w2)]
    wide = [w.dequantized(torch.float64) for w in coded]
    truth = reference.expert_mixture(x.double(), *wide, score.double(), unit_N, counts_E)
    ours = native_experts.expert_mixture_quantized(x, *coded, score, unit_N, counts_E)
    assert_near([ours], [truth], TOLERANCE[dtype])


@pytest.mark.parametrize(("bits", "group", "bytes_each"), [(8, 128, 1 + 4 / 128), (4, 32, 0.5 + 4 / 32)])
def test_codes_are_near_the_weights_and_small(bits: int, group: int, bytes_each: float) -> None:
    weights = torch.randn(3, 32, 256)
    coded = quantize_experts(weights, bits, group)
    assert coded.bytes == weights.numel() * bytes_each
    assert coded.shape == weights.shape
    groups = weights.unflatten(-1, (-1, group))
    step = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    error = (coded.dequantized().unflatten(-1, (-1, group)) - groups).abs()
    assert bool((error <= 0.5001 * step).all())
    assert torch.equal(quantize_experts(torch.zeros(1, 128), bits, group).dequantized(), torch.zeros(1, 128))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    before = torch.get_num_threads()
    inputs, unit_N, counts_E = draw([40, 0, 300, 3], 90, 200, 70, torch.float32, torch.float32)
    truth = outputs_and_gradients(native_experts.HALVES.mixture, inputs, unit_N, counts_E)
    try:
        torch.set_num_threads(threads)
        again = outputs_and_gradients(native_experts.HALVES.mixture, inputs, unit_N, counts_E)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(truth, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["few", "more than a block of rows and of columns"])
def test_tensors_may_be_strided_and_lie_anywhere(case: str, dtype: torch.dtype) -> None:
    inputs, unit_N, counts_E = draw(*CASES[case], dtype, dtype)
    truth = outputs_and_gradients(native_experts.HALVES.mixture, inputs, unit_N, counts_E)

    def shifted(x: Tensor) -> Tensor:
        """A copy whose address is no multiple of anything but the element's size."""
        return x.new_empty(x.numel() + 1)[1:].view_as(x).copy_(x)

    def strided(x: Tensor) -> Tensor:
        return x.new_empty(*x.shape[:-1], 2 * x.shape[-1])[..., ::2].copy_(x)

    for otherwise in (shifted, strided):
        leaves = [otherwise(x).requires_grad_() for x in inputs]
        out = native_experts.HALVES.mixture(*leaves, strided(unit_N), strided(counts_E))
        seed = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(dtype)
        again = [out.detach(), *torch.autograd.grad(out, leaves, seed)]
        assert all(torch.equal(a, b) for a, b in zip(truth, again, strict=True))


def test_what_is_kept_is_the_input_one_activation_and_the_lists() -> None:
    inputs, unit_N, counts_E = draw([40, 0, 24], 32, 64, 48, torch.float32, torch.float32)
    leaves = [x.requires_grad_() for x in inputs]
    kept: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        native_experts.HALVES.mixture(*leaves, unit_N, counts_E)
    inputs_at = {x.data_ptr() for x in [*leaves, unit_N, counts_E]}
    new = [x for x in kept if x.data_ptr() not in inputs_at]
    assert [list(x.shape) for x in new] == [[64, 2 * 48]]


def test_other_dtypes_are_computed_elsewhere() -> None:
    inputs, unit_N, counts_E = draw(*CASES["few"], torch.float64, torch.float64)
    inputs[3] = inputs[3].double()
    truth = outputs_and_gradients(reference.expert_mixture, inputs, unit_N, counts_E)
    assert_near(outputs_and_gradients(native_experts.HALVES.mixture, inputs, unit_N, counts_E), truth, 1e-12)


def test_lists_that_contradict_each_other_are_refused() -> None:
    (x, w13, w2, score), unit_N, counts_E = draw(*CASES["few"], torch.float32, torch.float32)
    run = native_experts.HALVES.mixture
    with pytest.raises(GrainlineError, match=r"add up to 18 .*there are 17 entries"):
        run(x, w13, w2, score, unit_N, counts_E + torch.tensor([0, 1, 0, 0, 0]))
    with pytest.raises(GrainlineError, match=r"the least is -1"):
        run(x, w13, w2, score, unit_N, counts_E + torch.tensor([1, -1, 0, 0, 0]))
    with pytest.raises(GrainlineError, match="from 0 to 17; there are 17"):
        run(x, w13, w2, score, unit_N.clone().index_fill_(0, torch.tensor([3]), 17).clamp_(min=0), counts_E)
    with pytest.raises(GrainlineError, match=r"w13 \[E, 2, F, D\]"):
        run(x, w2, w13, score, unit_N, counts_E)
    with pytest.raises(GrainlineError, match=r"counts of \[4\] experts; the weights are of 5"):
        run(x, w13, w2, score, unit_N, counts_E[1:])
    with pytest.raises(GrainlineError, match=r"\[16\] scores for \[17\] entries"):
        run(x, w13, w2, score[1:], unit_N, counts_E)


def test_codes_of_unlike_kinds_are_refused() -> None:
    (x, w13, w2, score), unit_N, counts_E = draw(*CASES["few"], torch.float32, torch.float32)
    coded = quantize_experts(w13, 8, 32), quantize_experts(w2, 4, 32)
    with pytest.raises(GrainlineError, match=r"w13 has 8 bits .* w2 4"):
        native_experts.expert_mixture_quantized(x, *coded, score, unit_N, counts_E)
    with pytest.raises(GrainlineError, match="3 bits"):
        quantize_experts(w13, 3, 32)  # type: ignore[arg-type]
    with pytest.raises(GrainlineError, match="groups of 48"):
        quantize_experts(w13, 8, 48)


def test_a_path_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_experts.PATH, "mmx")
    inputs, unit_N, counts_E = draw(*CASES["few"], torch.float32, torch.float32)
    with pytest.raises(GrainlineError, match="GRAINLINE_EXPERT_PATH=mmx: this processor has portable"):
        native_experts.HALVES.mixture(*inputs, unit_N, counts_E)


def test_without_the_core_other_backends_do_it() -> None:
    code = (
        "import torch; from grainline.kernels import native_experts as n; assert n.paths() == ();"
        "x, w, v = torch.ones(2, 4), torch.ones(1, 2, 3, 4), torch.ones(1, 4, 3);"
        "print(n.HALVES.rows(x, w, v, torch.tensor([2])).sum().item())"
    )
    environment = os.environ | {"GRAINLINE_NO_NATIVE": "1"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    silu = torch.nn.functional.silu(torch.tensor(4.0)).item()
    assert float(out.stdout) == pytest.approx(2 * 4 * 3 * silu * 4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_computes_too() -> None:
    inputs, unit_N, counts_E = draw([40, 0, 300, 3], 90, 200, 70, torch.float32, torch.float32)
    truth = native_experts.HALVES.mixture(*inputs, unit_N, counts_E)
    child = os.fork()
    if child == 0:
        same = torch.equal(native_experts.HALVES.mixture(*inputs, unit_N, counts_E), truth)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_deferred_gradients_are_the_same() -> None:
    inputs, unit_N, counts_E = draw([40, 0, 24], 32, 64, 48, torch.bfloat16, torch.float32)
    truth = outputs_and_gradients(native_experts.HALVES.mixture, inputs, unit_N, counts_E)
    x, w13, w2, score = (x.requires_grad_() for x in inputs)
    queue = kernels.WeightQueue()
    out = native_experts.HALVES.mixture(x, w13, w2, score, unit_N, counts_E, queue)
    seed = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    with queue.collecting() as work:
        out.backward(seed)
    assert w13.grad is None
    assert w2.grad is None
    for each in work:
        each()
    for mine, theirs in zip((x.grad, w13.grad, w2.grad, score.grad), truth[1:], strict=True):
        assert mine is not None
        assert torch.equal(mine, theirs)
