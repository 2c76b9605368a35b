"""Every backend of every op against the reference, forward and backward, on shapes that hurt."""

import pytest
import torch

from grainline import kernels


def experts_case(counts, size=12, hidden=7, dtype=torch.float64):
    torch.manual_seed(len(counts))
    counts_E = torch.tensor(counts)
    rows = torch.randn(int(counts_E.sum()), size, dtype=dtype, requires_grad=True)
    w13 = torch.randn(len(counts), 2, hidden, size, dtype=dtype, requires_grad=True)
    w2 = torch.randn(len(counts), size, hidden, dtype=dtype, requires_grad=True)
    return rows, w13, w2, counts_E


def outputs_and_grads(function, inputs, *rest):
    out = function(*inputs, *rest)
    seed = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, seed)]


@pytest.mark.parametrize("counts", [[3, 0, 9, 1, 4], [0, 0, 5], [6], [1] * 8])
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [
        ("sonic", torch.float64, 1e-11),
        ("sonic", torch.bfloat16, 0.02),
        ("grouped", torch.float64, 1e-11),
        ("grouped", torch.bfloat16, 0.02),
    ],
)
@pytest.mark.parametrize(("size", "hidden"), [(16, 8), (12, 7)])
def test_swiglu_experts_equal_the_reference(backend, dtype, tolerance, counts, size, hidden):
    *inputs, counts_E = experts_case(counts, size, hidden)
    truth = outputs_and_grads(kernels.BACKENDS["swiglu_experts"]["reference"], inputs, counts_E)
    narrow = [x.detach().to(dtype).requires_grad_() for x in inputs]
    ours = outputs_and_grads(kernels.BACKENDS["swiglu_experts"][backend], narrow, counts_E)
    for mine, theirs in zip(ours, truth, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=tolerance * max(1.0, scale))


def test_swiglu_experts_pass_gradcheck():
    *inputs, counts_E = experts_case([2, 0, 3])
    sonic = kernels.BACKENDS["swiglu_experts"]["sonic"]
    assert torch.autograd.gradcheck(lambda *args: sonic(*args, counts_E), inputs)


def test_experts_keep_float32_master_weights_under_bfloat16_rows():
    rows, w13, w2, counts_E = experts_case([40, 24], size=16, hidden=8, dtype=torch.float32)
    out = kernels.swiglu_experts(rows.bfloat16(), w13, w2, counts_E)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert w13.grad.dtype == w2.grad.dtype == torch.float32
    truth = kernels.BACKENDS["swiglu_experts"]["reference"](rows, w13, w2, counts_E)
    torch.testing.assert_close(out.float(), truth, rtol=0.1, atol=0.3)


def test_combine_rows_equals_the_reference():
    torch.manual_seed(0)
    rows = torch.randn(30, 6, dtype=torch.float64, requires_grad=True)
    score = torch.rand(30, dtype=torch.float64, requires_grad=True)
    unit = torch.randint(0, 11, (30,))
    ours = outputs_and_grads(kernels.BACKENDS["combine_rows"]["by_hand"], [rows, score], unit, 12)
    truth = outputs_and_grads(kernels.BACKENDS["combine_rows"]["reference"], [rows, score], unit, 12)
    for mine, theirs in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert torch.equal(ours[0][11], torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("ignored", [0, 7, 130])
def test_linear_cross_entropy_equals_the_reference_over_several_chunks(ignored, monkeypatch):
    monkeypatch.setattr("grainline.kernels.cross_entropy.CHUNK_ELEMENTS", 64)
    torch.manual_seed(0)
    x = torch.randn(130, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(17, 9, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 17, (130,))
    label[:ignored] = -100
    ours = outputs_and_grads(kernels.BACKENDS["linear_cross_entropy"]["chunked"], [x, weight], label)
    truth = outputs_and_grads(kernels.BACKENDS["linear_cross_entropy"]["reference"], [x, weight], label)
    for mine, theirs in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def compiled(function):
    """As torch.compile runs it, but for the code generation, which takes minutes."""
    return torch.compile(function, backend="aot_eager")


def close(ours, truth):
    for mine, theirs in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_norm_and_rotation_are_compiled_rightly_for_every_shape():
    """From the second batch size on the compiler takes sizes to be variable, and must still get views right."""
    torch.manual_seed(0)
    gain, angle = torch.randn(8, requires_grad=True), torch.randn(5, 1, 2)

    def queries_and_keys(q, k, gain):
        turned = [kernels.rotate(kernels.rms_norm(x, gain, 1e-6), angle.cos(), angle.sin(), False) for x in (q, k)]
        return torch.cat(turned, dim=2)

    as_compiled = compiled(queries_and_keys)
    for batch in (4, 3, 2):
        inputs = [torch.randn(batch, 5, heads, 8, requires_grad=True) for heads in (2, 1)]
        close(outputs_and_grads(as_compiled, [*inputs, gain]), outputs_and_grads(queries_and_keys, [*inputs, gain]))


def test_experts_are_compiled_rightly_for_all_counts():
    as_compiled = compiled(kernels.swiglu_experts)
    for counts in ([3, 0, 4], [2, 5, 1], [0, 0, 6]):
        *inputs, counts_E = experts_case(counts, dtype=torch.float32)
        ours, truth = (outputs_and_grads(f, inputs, counts_E) for f in (as_compiled, kernels.swiglu_experts))
        close(ours, truth)


def test_every_device_type_names_backends_that_exist():
    for choice in kernels.CHOICE.values():
        for name, backend in choice.items():
            assert backend in kernels.BACKENDS[name]
    assert kernels.op("swiglu_experts", "xpu") is kernels.BACKENDS["swiglu_experts"]["reference"]


@pytest.mark.parametrize("shape", [(3, 5, 12), (2, 7, 3, 8), (4, 6)])
def test_rms_norm_equals_the_reference(shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(shape[-1], dtype=torch.float64, requires_grad=True)
    ours = outputs_and_grads(kernels.BACKENDS["rms_norm"]["by_hand"], [x, gain], 1e-3)
    truth = outputs_and_grads(kernels.BACKENDS["rms_norm"]["reference"], [x, gain], 1e-3)
    for mine, theirs in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("turning", [4, 8])
def test_rotate_equals_the_reference(interleaved, turning):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64, requires_grad=True)
    angle = torch.randn(5, 1, turning // 2, dtype=torch.float64)
    arguments = (angle.cos(), angle.sin(), interleaved)
    ours = outputs_and_grads(kernels.BACKENDS["rotate"]["by_hand"], [x], *arguments)
    truth = outputs_and_grads(kernels.BACKENDS["rotate"]["reference"], [x], *arguments)
    for mine, theirs in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)])
def test_short_attention_equals_a_loop(heads):
    torch.manual_seed(0)
    q_heads, kv_heads = heads
    q, k, v = (torch.randn(2, 9, n, 8).bfloat16().requires_grad_() for n in (q_heads, kv_heads, kv_heads))
    ours = outputs_and_grads(kernels.BACKENDS["attention"]["short"], [q, k, v], None, True, 0.3)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]

    def by_hand(q, k, v):
        rows = []
        for b in range(2):
            for s in range(9):
                for h in range(q_heads):
                    g = h // (q_heads // kv_heads)
                    weights = (0.3 * k[b, : s + 1, g] @ q[b, s, h]).softmax(0)
                    rows.append(weights @ v[b, : s + 1, g])
        return torch.stack(rows).view(2, 9, q_heads, 8)

    truth = outputs_and_grads(by_hand, wide)
    reference = outputs_and_grads(kernels.BACKENDS["attention"]["reference"], wide, None, True, 0.3)
    for mine, plain, theirs in zip(ours, reference, truth, strict=True):
        torch.testing.assert_close(plain, theirs, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine.double(), theirs, rtol=0.05, atol=0.03)
