"""How fast a model trains here, by doing it for a moment: the one figure that no formula gives."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from grainline.documents import ModelConfig, Recipe
from grainline.documents.recipe import Loss
from grainline.documents.recipe import Optimizer as OptimizerChoice
from grainline.kernels.sink import GradientSink
from grainline.models.build import build
from grainline.models.moe import Moment
from grainline.parallel import Ranks
from grainline.train.decide import Decision
from grainline.train.objective import Objective
from grainline.train.optim import Optimizer
from grainline.train.setup import DTYPES

PASSES = 3


@dataclass(frozen=True)
class StepSeconds:
    """Of one forward and backward pass, and of one update."""

    a_pass: float
    update: float


def measured_tokens_per_second(recipe: Recipe, config: ModelConfig, decision: Decision, ranks: Ranks) -> float:
    """Of the whole run: passes of one micro-batch and an update, timed on random tokens, scaled to a step.

    Ranks are taken to be as fast as this one alone; what they lose to each other isn't in it.
    """
    share = len(ranks.share(recipe.batch_sequences))
    sequences = min(decision.micro_batch_sequences, share)
    before = torch.get_num_threads()
    torch.set_num_threads(decision.threads)
    try:
        seconds = step_seconds(
            config,
            recipe.loss,
            recipe.optimizer,
            decision.compute,
            ranks.device,
            shape=(sequences, recipe.data.sequence_length),
            recompute=decision.plan.execution.recompute == "block",
            document_attention=recipe.data.document_attention,
        )
    finally:
        torch.set_num_threads(before)
    return recipe.training.batch_tokens / (seconds.a_pass * share / sequences + seconds.update)


def step_seconds(
    config: ModelConfig,
    loss: Loss,
    choice: OptimizerChoice,
    compute: str,
    device: torch.device,
    *,
    shape: tuple[int, int],
    recompute: bool = False,
    document_attention: bool = False,
) -> StepSeconds:
    """Of a new model on random tokens, `shape` = (sequences, length), with the threads there are."""
    dtype = DTYPES[compute]
    model = build(config, device=device)
    model.compute_dtype = dtype
    model.recompute = recompute
    model.moment = Moment(training=True)  # some routers choose otherwise, at another cost
    sequences, length = shape
    objective = Objective(
        model, loss, batch_tokens=sequences * length, document_attention=document_attention, bos_token_id=0
    )
    optimizer = Optimizer(model.named_parameters(), choice, dtype=dtype)
    random = torch.Generator().manual_seed(0)
    ids_BS1 = torch.randint(config.vocab_size, (sequences, length + 1), generator=random).to(device)

    sink = GradientSink()

    def one_pass() -> None:
        with sink.collecting():
            objective(ids_BS1)[0].backward()

    one_pass()  # the first one also meets the kernels and allocates
    a_pass = statistics.median(_seconds(one_pass, device) for _ in range(PASSES))
    optimizer.step(lr=0.0)
    return StepSeconds(a_pass, _seconds(lambda: optimizer.step(lr=0.0), device))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
