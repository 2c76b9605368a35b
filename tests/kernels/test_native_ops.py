"""The compiled core's ops on every instruction set that this processor has, against the reference in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from grainline import kernels
from grainline.documents import GrainlineError
from grainline.kernels import native_decode, native_ops, reference

SETS = native_ops.instruction_sets()
pytestmark = pytest.mark.skipif(not SETS, reason="needs the compiled core")
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 8e-3}
"""Of the largest magnitude: some roundings of float32, and one of bfloat16 on each of a few steps."""
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(params=SETS, autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    with native_ops.using(request.param):
        yield request.param


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def outputs_and_grads(function: Callable[..., Tensor], inputs: list[Tensor], *rest: object) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs, *rest)
    seed = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, seed)]


def assert_close(ours: list[Tensor], truth: list[Tensor], dtype: torch.dtype) -> None:
    for found, expected in zip(ours, truth, strict=True):
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def wide(x: object) -> object:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def against_reference(name: str, inputs: list[Tensor], *rest: object, dtype: torch.dtype) -> None:
    ours = outputs_and_grads(kernels.BACKENDS[name]["native"], inputs, *rest)
    truth = outputs_and_grads(
        kernels.BACKENDS[name]["reference"], [x.double() for x in inputs], *(wide(x) for x in rest)
    )
    assert ours[0].dtype in (dtype, torch.float32)  # losses are float32
    assert_close(ours, truth, dtype)


# --- routing


@pytest.mark.parametrize(("entries", "experts"), [(0, 4), (1, 1), (7, 3), (1000, 64), (40_000, 128), (20_000, 1)])
def test_sort_by_expert_is_the_stable_sort(entries: int, experts: int) -> None:
    expert_N = torch.randint(0, experts, (entries,), generator=torch.Generator().manual_seed(entries))
    assert torch.equal(native_ops.sort_by_expert(expert_N, experts), reference.sort_by_expert(expert_N, experts))


def test_sort_by_expert_takes_every_second_entry() -> None:
    expert_N = torch.randint(0, 9, (300,))[::2]
    assert torch.equal(native_ops.sort_by_expert(expert_N, 9), reference.sort_by_expert(expert_N, 9))


@pytest.mark.parametrize("wrong", [-1, 8, 1 << 40])
@pytest.mark.parametrize("entries", [150, 40_000])
def test_an_id_that_is_no_experts_is_named(wrong: int, entries: int) -> None:
    expert_N = torch.zeros(entries, dtype=torch.int64)
    expert_N[entries - 3] = wrong
    with pytest.raises(GrainlineError, match=f"entry {entries - 3} goes to expert {wrong}, and there are 8"):
        native_ops.sort_by_expert(expert_N, 8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_route_topk_takes_the_best_whatever_the_scores(data: st.DataObject) -> None:
    choices = data.draw(st.integers(1, 70))
    k = data.draw(st.integers(1, min(16, choices)))
    few = st.sampled_from([0.0, -0.0, 0.5, -3.0, float("inf"), float("-inf"), float("nan"), 1e-40])  # ties, mostly
    rows = data.draw(st.lists(st.lists(few, min_size=choices, max_size=choices), min_size=1, max_size=4))
    name = data.draw(st.sampled_from(SETS))
    score_TE = torch.tensor(rows, dtype=torch.float32)
    with native_ops.using(name):
        ids, scores = native_ops.route_topk(score_TE, k)
    for ids_k, scores_k, row in zip(ids.tolist(), scores, score_TE, strict=True):
        values = row.tolist()
        best = sorted(range(choices), key=lambda e: -torch.inf if values[e] != values[e] else -values[e])
        best.sort(key=lambda e: values[e] == values[e])  # NaN before infinity
        assert ids_k == best[:k]
        assert torch.equal(scores_k.nan_to_num(9.0), row[best[:k]].nan_to_num(9.0))


@pytest.mark.parametrize(("tokens", "choices", "k"), [(0, 8, 2), (3, 8, 8), (700, 64, 8), (90, 512, 16), (5, 1024, 3)])
def test_route_topk_equals_the_reference(tokens: int, choices: int, k: int) -> None:
    score_TE = drawn(tokens, choices, dtype=torch.float32)
    for ours, truth in zip(native_ops.route_topk(score_TE, k), reference.route_topk(score_TE, k), strict=True):
        assert torch.equal(ours, truth)
    columns = drawn(choices, tokens, dtype=torch.float32).t()
    assert torch.equal(native_ops.route_topk(columns, k)[0], reference.route_topk(columns, k)[0])


def test_route_topk_has_the_gradient_of_a_gather() -> None:
    score_TE = drawn(5, 16, dtype=torch.float32).requires_grad_()
    ids, scores = native_ops.route_topk(score_TE, 3)
    (scores * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    expected = torch.zeros(5, 16).scatter_(1, ids, torch.tensor([1.0, 2.0, 3.0]).expand(5, 3))
    assert score_TE.grad is not None
    assert torch.equal(score_TE.grad, expected)


# --- norm and rotation


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 12), (2, 7, 3, 8), (4, 64), (5, 37), (300, 257), (0, 16), (9,)])
def test_rms_norm_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = [drawn(*shape, dtype=dtype), drawn(shape[-1], dtype=dtype)]
    against_reference("rms_norm", inputs, 1e-3, dtype=dtype)


@DTYPES
def test_rms_norm_reads_slices_and_misaligned_rows_where_they_are(dtype: torch.dtype) -> None:
    whole = drawn(2, 6, 4 * 24, dtype=dtype)
    gain = drawn(17, dtype=dtype)[1:]
    for x in (
        whole[..., :64].unflatten(-1, (4, 16)),  # heads of a joint projection
        whole.unflatten(-1, (4, 24))[..., 3:19],
        whole[:, ::2, :16],
        whole[..., :32:2],
        whole.transpose(0, 1)[..., 1:17],
        whole.flatten()[1:161].view(10, 16),
    ):
        against_reference("rms_norm", [x, gain], 1e-6, dtype=dtype)


@DTYPES
def test_a_gradient_that_is_one_number_everywhere_reaches_the_norm(dtype: torch.dtype) -> None:
    x, gain = drawn(6, 32, dtype=dtype).requires_grad_(), drawn(32, dtype=dtype)
    native_ops.rms_norm(x, gain, 1e-6).sum().backward()  # its strides are 0
    wide_x = x.detach().double().requires_grad_()
    reference.rms_norm(wide_x, gain.double(), 1e-6).sum().backward()
    assert x.grad is not None
    assert wide_x.grad is not None
    assert_close([x.grad], [wide_x.grad], dtype)


@DTYPES
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("size", "turning"), [(8, 8), (64, 64), (64, 32), (70, 66), (12, 6), (2, 2)])
@pytest.mark.parametrize("of_each_sequence", [False, True])
def test_rotate_equals_the_reference(
    size: int, turning: int, interleaved: bool, of_each_sequence: bool, dtype: torch.dtype
) -> None:
    angle = drawn(*((3,) if of_each_sequence else ()), 5, 1, turning // 2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    against_reference("rotate", [drawn(3, 5, 2, size, dtype=dtype)], cos, sin, interleaved, dtype=dtype)


@DTYPES
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotate_reads_slices_where_they_are(interleaved: bool, dtype: torch.dtype) -> None:
    angle = drawn(6, 1, 8)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    for x in (
        drawn(2, 6, 3, 24, dtype=dtype)[..., 4:20],
        drawn(2, 9, 3, 16, dtype=dtype)[:, 2:8],
        drawn(2, 3, 6, 16, dtype=dtype).transpose(1, 2),
        drawn(2, 6, 1, 16, dtype=dtype).expand(-1, -1, 3, -1),
        drawn(2, 6, 3, 32, dtype=dtype)[..., ::2],
    ):
        against_reference("rotate", [x], cos, sin, interleaved, dtype=dtype)


def test_nan_and_infinity_spread_as_the_reference_spreads_them() -> None:
    x = drawn(4, 20, dtype=torch.float32)
    x[1, 3], x[2, 18] = torch.nan, torch.inf
    ours, truth = (f(x, torch.ones(20), 1e-6) for f in (native_ops.rms_norm, reference.rms_norm))
    assert torch.equal(ours.isnan(), truth.isnan())
    narrow = native_ops.rms_norm(x.bfloat16(), torch.ones(20).bfloat16(), 1e-6)
    assert torch.equal(narrow.isnan(), truth.isnan())


# --- loss


@DTYPES
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 2), (130, 17), (70, 129), (5, 1000), (0, 8)])
def test_linear_cross_entropy_equals_the_reference(
    rows: int, vocabulary: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grainline.kernels.cross_entropy.CHUNK_ELEMENTS", 64)
    monkeypatch.setattr("grainline.kernels.cross_entropy.CHUNK_ROWS", 48)
    label_N = torch.randint(0, vocabulary, (rows,), generator=torch.Generator().manual_seed(rows))
    label_N[: rows // 9] = -100
    inputs = [drawn(rows, 24, dtype=dtype), drawn(vocabulary, 24, dtype=dtype)]
    ours = outputs_and_grads(native_ops.linear_cross_entropy, inputs, label_N)
    truth = outputs_and_grads(reference.linear_cross_entropy, [x.double() for x in inputs], label_N)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]  # logits are of the inputs' dtype
    for found, expected in zip(ours, truth, strict=True):
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * scale)


@DTYPES
def test_softmax_of_far_apart_nan_and_infinite_logits_is_torchs(dtype: torch.dtype) -> None:
    logits = drawn(7, 53, dtype=dtype) * 50
    logits[1, 7], logits[2, 52], logits[3, 5], logits[4, 0] = -torch.inf, torch.nan, torch.inf, 1e30
    label = torch.tensor([0, 52, 3, 1, 0, 12, -100])
    exact = logits.double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(exact, label, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), exact)
    ours, loss = logits.clone(), torch.empty(7)
    native_ops.softmax_(ours, label, loss, gradient=True)
    torch.testing.assert_close(loss.double(), losses.detach(), rtol=1e-5, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(ours.double(), gradient, rtol=0, atol=TOLERANCE[dtype], equal_nan=True)


def test_without_a_gradient_logits_stay_as_they_are() -> None:
    logits, loss = drawn(3, 19, dtype=torch.float32), torch.empty(3)
    before = logits.clone()
    native_ops.softmax_(logits, torch.tensor([1, -100, 18]), loss, gradient=False)
    assert torch.equal(logits, before)
    assert loss[1] == 0


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_label_that_is_no_id_is_named(wrong: int) -> None:
    with pytest.raises(GrainlineError, match=f"label {wrong}: the vocabulary has 5 ids"):
        native_ops.linear_cross_entropy(torch.ones(2, 4), torch.ones(5, 4), torch.tensor([0, wrong]))


# --- who runs it


@DTYPES
def test_a_step_of_decoding_over_a_dense_cache_equals_the_reference(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grainline.kernels.native_decode.FEW_KEYS", {})
    for heads, groups, keys in ((6, 2, 77), (8, 8, 1), (5, 1, 300)):
        q, cache = drawn(2, 1, heads, 40, dtype=dtype), drawn(2, 2 * keys, groups, 80, dtype=dtype)
        k, v = cache[:, :keys, :, :40], cache[:, :keys, :, 40:64]
        ours = native_decode.attention(q, k, v, None, False, 0.2)
        truth = reference.attention(q.double(), k.double(), v.double(), None, False, 0.2)
        assert ours.dtype == dtype
        assert_close([ours], [truth], dtype)


def test_other_dtypes_devices_and_gradients_go_to_other_backends() -> None:
    x, gain = drawn(3, 8), drawn(8)
    torch.testing.assert_close(native_ops.rms_norm(x, gain, 1e-6), reference.rms_norm(x, gain, 1e-6))
    meta = torch.empty(3, 8, device="meta")
    assert native_ops.rms_norm(meta, meta[0], 1e-6).device.type == "meta"
    assert native_ops.route_topk(x, 2)[0].tolist() == reference.route_topk(x, 2)[0].tolist()
    q, k = drawn(1, 1, 2, 8, dtype=torch.float32).requires_grad_(), drawn(1, 9, 2, 8, dtype=torch.float32)
    native_decode.attention(q, k, k, None, False, 1.0).sum().backward()
    assert q.grad is not None


def test_compiled_code_runs_what_can_be_traced() -> None:
    label_N, gain = torch.tensor([1, 0, -100]), drawn(8, dtype=torch.float32)

    def both(x: Tensor, weight: Tensor) -> Tensor:
        ids, scores = kernels.route_topk(x, 2)
        order = kernels.sort_by_expert(ids.flatten(), 8)
        normal = kernels.rms_norm(x, gain, 1e-6)
        return kernels.linear_cross_entropy(normal, weight, label_N) + scores.flatten()[order].sum()

    inputs = [drawn(3, 8, dtype=torch.float32), drawn(4, 8, dtype=torch.float32)]
    ours = outputs_and_grads(torch.compile(both, backend="aot_eager"), inputs)
    for found, expected in zip(ours, outputs_and_grads(both, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(GrainlineError, match=f"'avx9000'.*There is {', '.join(SETS)}"), native_ops.using("avx9000"):
        pass


def test_results_do_not_depend_on_the_number_of_threads_beyond_rounding() -> None:
    x, gain, label = drawn(700, 96, dtype=torch.float32), drawn(96, dtype=torch.float32), torch.arange(700) % 50
    weight, before = drawn(50, 96, dtype=torch.float32), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(
                outputs_and_grads(native_ops.rms_norm, [x, gain], 1e-6)
                + outputs_and_grads(native_ops.linear_cross_entropy, [x, weight], label)
            )
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_without_the_core_the_same_calls_run_elsewhere() -> None:
    script = (
        "import torch; from grainline import kernels; from grainline.kernels.pool import pool\n"
        "x = torch.ones(4, 8); g = torch.ones(8); assert pool() is None\n"
        "kernels.rms_norm(x, g, 1e-6); kernels.sort_by_expert(torch.tensor([1, 0]), 2); kernels.route_topk(x, 2)\n"
        "kernels.linear_cross_entropy(x, x, torch.zeros(4, dtype=torch.int64))\n"
        "kernels.attention(x.view(1, 1, 4, 8), x.view(1, 1, 4, 8), x.view(1, 1, 4, 8), None, False, 1.0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "GRAINLINE_NO_NATIVE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
