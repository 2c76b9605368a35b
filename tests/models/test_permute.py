"""A model with its experts in another order computes the same."""

from __future__ import annotations

import pytest
import torch

from grainline.documents import Attention, GrainlineError, ModelConfig, Moe
from grainline.models.build import build
from grainline.models.model import Model
from grainline.models.moe.permute import permuted

KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "bias": {"bias_balanced": True, "router": "sigmoid-topk"},
    "costless": {"zero": 1, "constant": 2, "bias_balanced": True},
    "carried": {"router": "gating-residual", "zero": 1},
    "averaged": {"router": "depth-averaged", "router_hidden": 16, "bias_balanced": True},
    "shared": {"reuse": 2, "bias_balanced": True},
    "narrow": {"expert": "bottleneck", "latent": 16},
    "some dense": {"dense_layers": (1,), "shared_experts": 1, "router": "gating-residual"},
}


def config(**moe: object) -> ModelConfig:
    given = {"experts": 4, "top_k": 2, "expert_hidden": 16, "router": "softmax-topk", **moe}
    return ModelConfig(
        family="grainline",
        vocab_size=32,
        hidden_size=32,
        layers=4,
        ffn_hidden=64,
        max_positions=16,
        init_std=0.3,
        attention=Attention(heads=2, head_dim=16),
        moe=Moe.model_validate(given),
    )


def randomised(of: ModelConfig) -> Model:
    model = build(of, seed=0, dtype=torch.float64)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for tensor in model.state_dict().values():
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
    return model.eval()


def orders(of: ModelConfig) -> dict[int, torch.Tensor]:
    assert of.moe is not None
    generator, found = torch.Generator().manual_seed(2), {}
    for layer in of.sparse_layers:
        first = of.expert_layers(layer)[0]
        found[layer] = found[first] if first in found else torch.randperm(of.moe.pool, generator=generator)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_same(kind: str) -> None:
    """And where one part is left as it was, they aren't."""
    of = config(**KINDS[kind])
    model, order = randomised(of), orders(of)
    ids_BS = torch.randint(32, (3, 12), generator=torch.Generator().manual_seed(3))
    wanted_BSV = model(ids_BS)
    state = permuted(of, model.state_dict(), order)
    other = build(of, seed=5, dtype=torch.float64).eval()
    other.load_state_dict(state)
    torch.testing.assert_close(other(ids_BS), wanted_BSV, rtol=0, atol=1e-12)
    moved = [name for name, tensor in state.items() if not torch.equal(tensor, model.state_dict()[name])]
    assert len(moved) >= 3
    for name in moved:
        other.load_state_dict(state | {name: model.state_dict()[name]})
        assert (other(ids_BS) - wanted_BSV).abs().max() > 1e-6, name


def test_some_layers_alone() -> None:
    of = config(router="gating-residual")
    model, order = randomised(of), orders(of)
    state = permuted(of, model.state_dict(), {1: order[1]})
    other = build(of, seed=5, dtype=torch.float64).eval()
    other.load_state_dict(state)
    ids_BS = torch.randint(32, (2, 12), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(other(ids_BS), model(ids_BS), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("moe", "order", "words"),
    [
        ({}, {0: [0, 1, 1, 3]}, "must name each of 0 to 3 once"),
        ({"dense_layers": (0,)}, {0: [0, 1, 2, 3]}, "layer 0 has no experts"),
        ({"reuse": 2}, {0: [1, 0, 2, 3, 4, 5, 6, 7]}, "layers 0 and 1 share their experts"),
        ({"groups": 2, "router": "sigmoid-topk"}, {0: [0, 2, 1, 3]}, "2 groups of neighbouring experts"),
    ],
)
def test_orders_that_cannot_be(moe: dict[str, object], order: dict[int, list[int]], words: str) -> None:
    of = config(**moe)
    with pytest.raises(GrainlineError, match=words):
        permuted(of, {}, {layer: torch.tensor(row) for layer, row in order.items()})


def test_whole_groups_may_change_places() -> None:
    of = config(groups=2, router="sigmoid-topk", bias_balanced=True)
    model = randomised(of)
    other = build(of, seed=5, dtype=torch.float64).eval()
    other.load_state_dict(permuted(of, model.state_dict(), {0: torch.tensor([3, 2, 1, 0])}))
    ids_BS = torch.randint(32, (2, 12), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(other(ids_BS), model(ids_BS), rtol=0, atol=1e-12)
