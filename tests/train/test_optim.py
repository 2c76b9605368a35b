"""The optimisers against their definitions: SVD, one matrix at a time, and torch's own."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from grainline.documents.recipe import Optimizer as OptimizerRecipe
from grainline.train.optim import Muon, Optimizer, orthogonalize, sort_parameters
from grainline.train.optim import muon as muon_module


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _orthogonal_factor(x: torch.Tensor) -> torch.Tensor:
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def test_five_steps_bring_every_singular_value_near_one_and_keep_the_singular_vectors() -> None:
    x_NRC = _random(3, 24, 40)
    out_NRC = orthogonalize(x_NRC)
    values = torch.linalg.svdvals(out_NRC)
    assert values.min() > 0.6
    assert values.max() < 1.25
    expected_NRC = _orthogonal_factor(x_NRC)
    cosine = (out_NRC * expected_NRC).sum((1, 2)) / (out_NRC.norm(dim=(1, 2)) * expected_NRC.norm(dim=(1, 2)))
    assert cosine.min() > 0.98


def test_the_iteration_is_the_quintic_on_singular_values() -> None:
    """The oracle in float64: same singular vectors, and each value through p(s) = as + bs³ + cs⁵, five times."""
    x_NRC = _random(2, 16, 20).double()
    u, s, vh = torch.linalg.svd(x_NRC / x_NRC.norm(dim=(1, 2), keepdim=True), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonalize(x_NRC), u * s[:, None] @ vh, atol=1e-6, rtol=0)


def test_bfloat16_follows_float32_and_zeros_stay_zero() -> None:
    x_NRC = torch.cat([_random(2, 16, 32), torch.zeros(1, 16, 32)])
    half, full = orthogonalize(x_NRC.bfloat16()), orthogonalize(x_NRC)
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() / full.norm() < 0.05
    assert torch.equal(half[2].float(), torch.zeros(16, 32))


def _stepped(parameter: nn.Parameter, gradients: list[torch.Tensor], **options: object) -> torch.Tensor:
    optimizer = Muon([parameter], lr=0.05, weight_decay=0.1, momentum=0.9, **options)  # type: ignore[arg-type]
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def test_two_dims_equal_torch_muon_with_adamw_rms() -> None:
    weight, gradients = _random(12, 20), [_random(12, 20, seed=i) for i in (1, 2, 3)]
    ours = _stepped(nn.Parameter(weight.clone()), gradients, dtype=torch.bfloat16)
    reference = nn.Parameter(weight.clone())
    optimizer = torch.optim.Muon(
        [reference], lr=0.05, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw", ns_steps=5
    )
    for gradient in gradients:
        reference.grad = gradient.clone()
        optimizer.step()
    moved = (reference - weight).norm()
    assert (ours - reference).norm() / moved < 0.02  # bfloat16 rounding in another order


def test_an_update_has_the_root_mean_square_of_adamw() -> None:
    for shape in ((64, 64), (32, 128), (128, 32), (3, 2, 32, 64)):
        parameter = nn.Parameter(torch.zeros(shape))
        optimizer = Muon([parameter], lr=1.0, weight_decay=0.0)
        parameter.grad = _random(*shape)
        optimizer.step()
        rms = parameter.detach().square().mean().sqrt().item()
        assert rms == pytest.approx(0.2, rel=0.2)  # singular values end between 0.7 and 1.2


def test_a_stack_of_experts_steps_as_its_matrices_one_by_one() -> None:
    stack, gradients = _random(3, 2, 8, 12), [_random(3, 2, 8, 12, seed=i) for i in (4, 5)]
    together = _stepped(nn.Parameter(stack.clone()), gradients)
    for e in range(3):
        for half in range(2):
            alone = _stepped(nn.Parameter(stack[e, half].clone()), [g[e, half] for g in gradients])
            torch.testing.assert_close(together[e, half], alone, atol=1e-6, rtol=1e-5)


def test_batches_over_parameters_equal_one_parameter_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(8, 12), (12, 8), (2, 8, 12), (5, 5), (4, 12, 8), (8, 12)]
    weights = [_random(*s, seed=i) for i, s in enumerate(shapes)]

    def run(batch_elements: int) -> list[torch.Tensor]:
        monkeypatch.setattr(muon_module, "BATCH_ELEMENTS", batch_elements)
        parameters = [nn.Parameter(w.clone()) for w in weights]
        optimizer = Muon(parameters, lr=0.1)
        for i, p in enumerate(parameters):
            p.grad = _random(*p.shape, seed=10 + i)
        optimizer.step()
        return [p.detach() for p in parameters]

    for together, alone in zip(run(1 << 20), run(1), strict=True):
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_parameters_without_gradient_stay_and_vectors_are_refused() -> None:
    still, moving = nn.Parameter(_random(4, 4)), nn.Parameter(_random(4, 4))
    optimizer = Muon([still, moving], lr=0.1)
    moving.grad = _random(4, 4)
    before = still.detach().clone()
    optimizer.step()
    assert torch.equal(still, before)
    with pytest.raises(ValueError, match="matrices"):
        Muon([nn.Parameter(torch.zeros(4))], lr=0.1)


NAMES = {
    "embedding.weight": (32, 8),
    "blocks.0.attention_norm.weight": (8,),
    "blocks.0.attention.q.weight": (8, 8),
    "blocks.0.attention.q.bias": (8,),
    "blocks.1.ffn.router.weight_ED": (4, 8),
    "blocks.1.ffn.experts.w13_E2FD": (4, 2, 6, 8),
    "blocks.1.ffn.experts.w2_EDF": (4, 8, 6),
    "mtp.projection.weight": (8, 16),
    "head.weight": (32, 8),
}


def test_parameters_are_sorted_by_name_and_shape() -> None:
    groups = sort_parameters(NAMES.items(), "muon")
    assert groups.tables == ("embedding.weight", "blocks.1.ffn.router.weight_ED", "head.weight")
    assert groups.vectors == ("blocks.0.attention_norm.weight", "blocks.0.attention.q.bias")
    assert set(groups.matrices) == NAMES.keys() - set(groups.tables) - set(groups.vectors)
    assert sort_parameters(NAMES.items(), "adamw").matrices == ()


def _parameters() -> dict[str, nn.Parameter]:
    return {n: nn.Parameter(_random(*s, seed=i)) for i, (n, s) in enumerate(NAMES.items())}


def _train(optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        for i, p in enumerate(optimizer.parameters.values()):
            p.grad = _random(*p.shape, seed=100 * step + i)
        optimizer.step(lr=0.01 / step)


def test_adamw_path_equals_torch_adamw_without_decay_of_vectors() -> None:
    ours, theirs = _parameters(), _parameters()
    _train(Optimizer(ours.items(), OptimizerRecipe(kind="adamw", weight_decay=0.2)), range(1, 4))
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.values() if p.ndim > 1], "weight_decay": 0.2},
            {"params": [p for p in theirs.values() if p.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        foreach=False,
        fused=False,
    )
    for step in range(1, 4):
        for i, p in enumerate(theirs.values()):
            p.grad = _random(*p.shape, seed=100 * step + i)
        for group in reference.param_groups:
            group["lr"] = 0.01 / step
        reference.step()
    for name in NAMES:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-6)


def test_tables_have_a_rate_of_their_own_under_muon() -> None:
    """A table stepped at rate r with factor 3 ends where AdamW at rate 3r ends; matrices and vectors don't change."""
    plain, tripled = _parameters(), _parameters()
    _train(Optimizer(plain.items(), OptimizerRecipe(weight_decay=0.0)), range(1, 2))
    _train(Optimizer(tripled.items(), OptimizerRecipe(weight_decay=0.0, table_rate=3.0)), range(1, 2))
    start = _parameters()
    tables = sort_parameters(((n, tuple(p.shape)) for n, p in start.items()), "muon").tables
    assert tables
    for name, parameter in start.items():
        moved, moved_more = plain[name] - parameter, tripled[name] - parameter
        torch.testing.assert_close(moved_more, moved * (3 if name in tables else 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_state_by_name_restores_the_run_exactly(kind: str) -> None:
    recipe = OptimizerRecipe(kind=kind)  # type: ignore[arg-type]
    whole = _parameters()
    _train(Optimizer(whole.items(), recipe), range(1, 7))

    first = _parameters()
    optimizer = Optimizer(first.items(), recipe)
    _train(optimizer, range(1, 4))
    saved = {k: v.clone() for k, v in optimizer.tensors().items()}
    assert all(isinstance(v, torch.Tensor) for v in saved.values())

    second = copy.deepcopy(first)
    resumed = Optimizer(second.items(), recipe)
    for key, tensor in resumed.tensors().items():
        tensor.copy_(saved[key])
    resumed.resume_at(3)
    _train(resumed, range(4, 7))
    for name in NAMES:
        assert torch.equal(whole[name], second[name])
        assert math.isfinite(second[name].sum().item())
