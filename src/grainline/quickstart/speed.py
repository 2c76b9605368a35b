"""How long a training step takes here, measured on the very models that will be trained."""

from __future__ import annotations

from typing import Literal

import torch

from grainline.documents import ModelConfig
from grainline.documents.recipe import Loss, Optimizer
from grainline.hardware import Machine, choose_device
from grainline.quickstart.budget import MTP_EVERY, SEQUENCE_LENGTH, Speed
from grainline.train.speed import step_seconds

Compute = Literal["float32", "bfloat16"]
BATCH_TOKENS = 4096


def measure_speed(sparse: ModelConfig, dense: ModelConfig, machine: Machine) -> Speed:
    """Time steps of both models, in the dtype in which the sparse one is faster."""
    torch.set_num_threads(machine.threads)
    device = torch.device(choose_device())
    dtypes: list[Compute] = ["float32"]
    if machine.bfloat16_pays(device.type):
        dtypes.append("bfloat16")
    seconds = {dtype: _step(sparse, dtype, device) for dtype in dtypes}
    best = min(dtypes, key=lambda dtype: seconds[dtype])
    return Speed(seconds[best], _step(dense, best, device), BATCH_TOKENS, best)


def _step(config: ModelConfig, compute: Compute, device: torch.device) -> float:
    """Seconds of a whole step: losses, gradients, optimiser."""
    shape = (BATCH_TOKENS // SEQUENCE_LENGTH, SEQUENCE_LENGTH)
    seconds = step_seconds(config, Loss(mtp_every=MTP_EVERY), Optimizer(), compute, device, shape=shape)
    return seconds.a_pass + seconds.update
