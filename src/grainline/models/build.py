"""A new model from a config: random weights that depend on the seed and each parameter's name, on nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import nn

from grainline.documents import ModelConfig
from grainline.models.model import Model
from grainline.models.part import keep_cells


def build(
    config: ModelConfig,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    cells: Collection[str] | None = None,
) -> Model:
    """Make the model and initialise it: normal with `config.init_std`, gains 1, biases 0.

    Projections back into the residual stream (o, w2) are drawn 1/√(2L) smaller, so that the stream's variance doesn't
    grow with depth (GPT-2). Each parameter has a stream of its own, keyed by its name, so that adding a module or
    sharding the model changes no other. With `cells` only the modules that these need are made.
    """
    with torch.device("meta"):
        model = Model(config)
    if cells is not None:
        keep_cells(model, cells)
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            initialise(parameter, name, config, seed)
        for buffer in model.buffers():
            buffer.zero_()
    for parameter in model.parameters():  # buffers (router biases) stay float32
        parameter.data = parameter.data.to(dtype)
    return model


def initialise(parameter: nn.Parameter, name: str, config: ModelConfig, seed: int) -> None:
    """Fill one parameter in place."""
    if name.endswith("norm.weight"):
        parameter.fill_(1.0)
    elif name.endswith(".bias"):
        parameter.zero_()
    else:
        into_stream = name.endswith(("attention.o.weight", "w2_DF", "w2_EDF"))
        std = config.init_std * ((2 * config.layers) ** -0.5 if into_stream else 1.0)
        key = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest(), "big")
        draw = torch.empty(parameter.shape).normal_(0.0, std, generator=torch.Generator().manual_seed(key))
        parameter.copy_(draw)
