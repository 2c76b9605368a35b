"""From a plain model to one whose layers share experts (ReXMoE, arXiv 2510.17483), without forgetting."""

from __future__ import annotations

import torch

from grainline.documents import GrainlineError, ModelConfig
from grainline.models.build import build
from grainline.models.model import Model
from grainline.models.moe import MoeLayer


def shared_experts(model: Model, reuse: int, *, seed: int = 0) -> Model:
    """The same model with banks of the experts of `reuse` adjacent sparse layers each.

    Routers keep their rows for their own experts and get new ones, drawn from `seed`, for their neighbours'. Where
    those are closed the two models compute the same: train on with ``routing.draw = "local-first"`` and
    ``routing.closed = "logit"``, which starts there and opens the neighbours' over the run.
    Raises GrainlineError where the sparse layers can't be grouped so.
    """
    config = shared_config(model.config, reuse)
    assert model.config.moe is not None
    weights = next(model.parameters())
    made = build(config, seed=seed, dtype=weights.dtype, device=weights.device)
    own, old = made.state_dict(), model.state_dict()
    with torch.no_grad():
        for name, tensor in old.items():
            if name in own and own[name].shape == tensor.shape:
                own[name].copy_(tensor)
        for layer in config.sparse_layers:
            place = config.expert_layers(layer).index(layer)
            rows = slice(place * model.config.moe.experts, (place + 1) * model.config.moe.experts)
            theirs, ours = _experts_of(model, layer), _experts_of(made, layer)
            bank = made.bank(layer)
            assert bank is not None
            assert theirs.experts is not None
            for name, tensor in theirs.experts.named_parameters():
                bank.get_parameter(name)[rows].copy_(tensor)
            experts, pool = model.config.moe.experts, model.config.moe.experts * reuse
            for name, tensor in theirs.state_dict().items():
                if name.startswith("router."):  # choices are its rows: experts, then costless ones
                    ours.state_dict()[name][rows].copy_(tensor[:experts])
                    ours.state_dict()[name][pool:].copy_(tensor[experts:])
    return made


def shared_config(config: ModelConfig, reuse: int) -> ModelConfig:
    """Of the model that `shared_experts` makes. Raises GrainlineError as it does."""
    if config.moe is None or config.moe.reuse > 1:
        raise GrainlineError("Experts can be shared by the layers of a sparse model that doesn't share them yet.")
    tables = config.tables()
    tables["moe"]["reuse"] = reuse
    return ModelConfig.parse(tables | {"family": "grainline"}, where="moe.reuse")


def _experts_of(model: Model, layer: int) -> MoeLayer:
    block = model.blocks[layer] if layer < model.config.layers else model.get_submodule("mtp.block")
    ffn = block.get_submodule("ffn")
    assert isinstance(ffn, MoeLayer)
    return ffn
