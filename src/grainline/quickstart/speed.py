"""How long a training step takes here, measured on the very models that will be trained."""

from __future__ import annotations

import statistics
import time
from typing import Literal

import torch

from grainline.documents import ModelConfig
from grainline.documents.recipe import Loss, Optimizer
from grainline.hardware import Machine, choose_device
from grainline.models.build import build
from grainline.quickstart.budget import MTP_EVERY, SEQUENCE_LENGTH, Speed
from grainline.train import optim
from grainline.train.objective import Objective
from grainline.train.setup import DTYPES

Compute = Literal["float32", "bfloat16"]
BATCH_TOKENS = 4096
WARM_UP, TIMED = 1, 3


def measure_speed(sparse: ModelConfig, dense: ModelConfig, machine: Machine) -> Speed:
    """Time steps of both models, in the dtype in which the sparse one is faster."""
    torch.set_num_threads(machine.threads)
    device = choose_device()
    dtypes: list[Compute] = ["float32"]
    if machine.bfloat16_pays(device):
        dtypes.append("bfloat16")
    seconds = {dtype: step_seconds(sparse, dtype, device) for dtype in dtypes}
    best = min(dtypes, key=lambda dtype: seconds[dtype])
    return Speed(seconds[best], step_seconds(dense, best, device), BATCH_TOKENS, best)


def step_seconds(config: ModelConfig, compute: Compute, device: str) -> float:
    """Median seconds of a whole step on random tokens: losses, gradients, clipping, optimiser."""
    model = build(config, device=device)
    model.compute_dtype = DTYPES[compute]
    loss = Loss(mtp_every=MTP_EVERY)
    objective = Objective(model, loss, batch_tokens=BATCH_TOKENS, document_attention=False, bos_token_id=None)
    optimizer = optim.Optimizer(model.named_parameters(), Optimizer(), dtype=DTYPES[compute])
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH_TOKENS // SEQUENCE_LENGTH, SEQUENCE_LENGTH + 1)
    times = []
    for _ in range(WARM_UP + TIMED):
        ids_BS1 = torch.randint(0, config.vocab_size, shape, generator=generator).to(device)
        start = time.perf_counter()
        value, _ = objective(ids_BS1)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1e-3)
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])
