"""Cells add up to the model, whoever holds them; a part of a model is the whole's, name by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from expert_cases import routed

from grainline.documents import Attention, ModelConfig, Moe
from grainline.documents.recipe import Loss
from grainline.models.build import build
from grainline.models.cells import Batch, Carry, cell_names
from grainline.models.dial import config_for_depth, dense_twin
from grainline.models.loss import loss_sums, run_cells
from grainline.models.model import Model
from grainline.models.moe import Moment
from grainline.models.moe.routers import ROUTERS
from grainline.models.part import modules_of
from grainline.schedule.cells import cells_of

LING = config_for_depth(3, vocab_size=60, max_positions=64)
TIED = ModelConfig(
    vocab_size=60,
    hidden_size=16,
    layers=2,
    ffn_hidden=32,
    max_positions=64,
    tie_embeddings=True,
    mtp_depth=1,
    attention=Attention(heads=4, kv_heads=2, head_dim=4),
    moe=Moe(experts=4, top_k=2, expert_hidden=8, dense_layers=(0, 1)),
)
CONFIGS = {"ling": LING, "tied": TIED, "dense": dense_twin(LING).model_copy(update={"mtp_depth": 0})}
CONFIGS |= {f"{kind}": routed(kind, layers=4, dense_layers=(1,)) for kind in ROUTERS}
TRAINING = Moment(True, 0.4, 7)


def made(config: ModelConfig, **options: Any) -> Model:
    """With all tensors random, in float64, at a moment at which routers choose as in training."""
    model = build(config, **options, dtype=torch.float64)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        draw = torch.Generator().manual_seed(sum(map(ord, name)))
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=draw).to(tensor.dtype)
    model.moment = TRAINING
    return model


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return CONFIGS[request.param]


def test_schedules_and_models_call_cells_alike(config: ModelConfig) -> None:
    assert tuple(cell_names(config)) == tuple(cell.name for cell in cells_of(config))


def test_cells_one_by_one_on_parts_of_their_own_are_the_model(config: ModelConfig) -> None:
    ids = torch.randint(0, 60, (3, 13), generator=torch.Generator().manual_seed(0))
    options = {"bos_token_id": 1, "mtp_every": 2}
    whole = loss_sums(made(config, seed=4), ids, **options)
    loss, parts, carry = Loss(z_loss=0.1, balance_loss=0.2), [], Carry()
    for cell in cell_names(config):
        batch = Batch.of(config, ids, **options)
        carry, sums = run_cells(made(config, seed=4, cells=[cell]), [cell], batch, carry)
        parts.append(sums)
    assert carry == Carry()
    assert sum(p.tokens for p in parts) == whole.tokens
    assert sum(p.mtp_tokens for p in parts) == whole.mtp_tokens
    assert torch.equal(sum(p.counts_LE for p in parts), whole.counts_LE)
    torch.testing.assert_close(sum(p.objective(loss, 36) for p in parts), whole.objective(loss, 36))


def test_a_part_has_what_its_cells_need_and_nothing_else(config: ModelConfig) -> None:
    whole = dict(build(config, seed=2).named_parameters())
    for cell in cell_names(config):
        part = dict(build(config, seed=2, cells=[cell]).named_parameters())
        paths = modules_of(config, cell)
        assert part.keys() == {name for name in whole if name.startswith(tuple(f"{path}." for path in paths))}
        assert all(torch.equal(part[name], whole[name]) for name in part)
    held = [name for cell in cell_names(config) for name in dict(build(config, cells=[cell]).named_parameters())]
    assert set(held) == set(whole)
