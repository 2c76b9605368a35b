"""A new model from a config: random weights that depend on the seed and each parameter's name, on nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import nn

from grainline.documents import ModelConfig
from grainline.models.model import Model
from grainline.models.moe.depth_averaged import SKIP_BIAS
from grainline.models.part import keep_cells


def build(
    config: ModelConfig,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    cells: Collection[str] | None = None,
) -> Model:
    """Make the model and initialise it: normal with `config.init_std`, gains 1, biases 0, a few by their own rules.

    Projections back into the residual stream (o, w2, a bottleneck's way up) are drawn 1/√(2L) smaller, so that the
    stream's variance doesn't grow with depth (GPT-2). Each parameter has a stream of its own, keyed by its name, so
    that adding a module or sharding the model changes no other. With `cells` only the modules that these need are made.
    """
    with torch.device("meta"):
        model = Model(config)
    if cells is not None:
        keep_cells(model, cells)
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            initialise(parameter, name, config, seed)
        for name, buffer in model.named_buffers():
            buffer.zero_()
            if name.endswith("router.bias_E"):
                start_bias(buffer, config)
    for parameter in model.parameters():  # buffers (router biases) stay float32
        parameter.data = parameter.data.to(dtype)
    return model


ONES = ("norm.weight", "scale_D", "router.gamma_R")
ZEROS = (".bias", "bias_D", "bias_C", "router.residual_EE")
"""How names of parameters end that start at 1, and at 0."""


def start_bias(bias_E: torch.Tensor, config: ModelConfig) -> None:
    """A router's selection bias: zero, but for ZAYA1's skip class."""
    moe = config.moe
    if moe is not None and moe.router == "depth-averaged":
        bias_E[moe.pool : moe.pool + moe.zero] = SKIP_BIAS


def initialise(parameter: nn.Parameter, name: str, config: ModelConfig, seed: int) -> None:
    """Fill one parameter in place."""
    if name.endswith(ONES):
        parameter.fill_(1.0)
    elif name.endswith(ZEROS):
        parameter.zero_()
    elif name.endswith("attention.temperature_G"):
        parameter.fill_(config.attention.key_temperature)
    else:
        std = spread(name, config)
        key = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest(), "big")
        draw = torch.empty(parameter.shape).normal_(0.0, std, generator=torch.Generator().manual_seed(key))
        parameter.copy_(draw)


def spread(name: str, config: ModelConfig) -> float:
    """Standard deviation of a parameter's first values."""
    if name.endswith("costless.vector_JD"):
        return 1.0  # as in MoE++'s published code, like a normalised input
    behind_bottleneck = config.moe is not None and config.moe.expert == "bottleneck"
    into_stream = ("attention.o.weight", "w2_DF", "bottleneck.up.weight" if behind_bottleneck else "w2_EDF")
    return config.init_std * ((2 * config.layers) ** -0.5 if name.endswith(into_stream) else 1.0)
