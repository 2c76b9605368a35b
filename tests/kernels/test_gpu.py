"""What GPUs run of each op, against the reference in float64: on a GPU, and the same code on this CPU."""

import pytest
import torch

from grainline import kernels

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}
"""Of a result's norm. Matmuls are in full float32, PyTorch's default."""


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def experts():
    counts_E = torch.tensor([40, 0, 72, 16])
    return [drawn(128, 64), 0.1 * drawn(4, 2, 32, 64), 0.1 * drawn(4, 64, 32)], [counts_E]


def combine():
    return [drawn(30, 16), drawn(30).sigmoid()], [torch.randint(0, 11, (30,)), 12]


def mixture():
    inputs, rest = experts()
    return [drawn(50, 64), *inputs[1:], drawn(128).sigmoid()], [torch.randint(0, 50, (128,)), *rest]


def cross_entropy():
    label_N = torch.randint(0, 64, (130,))
    label_N[:7] = -100
    return [drawn(130, 32), drawn(64, 32)], [label_N]


def norm():
    return [drawn(3, 5, 64), drawn(64)], [1e-6]


def rotation():
    angle = drawn(5, 1, 4)
    return [drawn(2, 5, 3, 16)], [angle.cos(), angle.sin(), False]


def attention():
    return [drawn(2, 64, 4, 16), drawn(2, 64, 2, 16), drawn(2, 64, 2, 16)], [None, True, 0.25]


CASES = {
    "swiglu_experts": experts,
    "combine_rows": combine,
    "expert_mixture": mixture,
    "linear_cross_entropy": cross_entropy,
    "rms_norm": norm,
    "rotate": rotation,
    "attention": attention,
}
"""op → inputs with gradients, and the rest of its arguments."""


def outputs_and_grads(function, inputs, rest):
    out = function(*inputs, *rest)
    seed = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad(out, inputs, seed)]


def test_every_op_has_a_case():
    without_gradients = {"sort_by_expert", "route_topk", "round_counts", "attention_decode", "expert_mixture_quantized"}
    assert CASES.keys() | without_gradients == kernels.BACKENDS.keys()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_what_gpus_run_equals_the_reference(name, dtype, device):
    torch.manual_seed(0)
    inputs, rest = CASES[name]()

    def moved(x):
        narrow = isinstance(x, torch.Tensor) and x.is_floating_point()
        return x.to(device, dtype) if narrow else x.to(device) if isinstance(x, torch.Tensor) else x

    mine = [moved(x).requires_grad_() for x in inputs]
    wide = [x.detach().double().cpu().requires_grad_() for x in mine]  # rounded alike
    rest = [moved(x) for x in rest]
    wide_rest = [x.double().cpu() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in rest]
    wide_rest = [x.cpu() if isinstance(x, torch.Tensor) else x for x in wide_rest]
    ours = outputs_and_grads(kernels.op(name, "cuda"), mine, rest)
    truth = outputs_and_grads(kernels.BACKENDS[name]["reference"], wide, wide_rest)
    for found, expected in zip(ours, truth, strict=True):
        assert found.device.type == device
        error = (found.double().cpu() - expected).norm() / expected.norm()
        assert error < TOLERANCE[dtype], f"{name}: off by {error:.2g} of its norm"
