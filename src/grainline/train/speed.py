"""How fast a model trains here, by doing it for a moment: the one figure that no formula gives."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from grainline.documents import ModelConfig, Recipe
from grainline.models.build import build
from grainline.parallel import Ranks
from grainline.train.decide import Decision
from grainline.train.objective import Objective
from grainline.train.optim import Optimizer
from grainline.train.setup import DTYPES

PASSES = 3


def measured_tokens_per_second(recipe: Recipe, config: ModelConfig, decision: Decision, ranks: Ranks) -> float:
    """Of the whole run: passes of one micro-batch and an update, timed on random tokens, scaled to a step.

    Ranks are taken to be as fast as this one alone; what they lose to each other isn't in it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(decision.threads)
    try:
        return _timed(recipe, config, decision, ranks)
    finally:
        torch.set_num_threads(before)


def _timed(recipe: Recipe, config: ModelConfig, decision: Decision, ranks: Ranks) -> float:
    data, dtype = recipe.data, DTYPES[decision.compute]
    model = build(config, device=ranks.device)
    model.compute_dtype = dtype
    model.recompute = decision.plan.execution.recompute == "block"
    objective = Objective(
        model,
        recipe.loss,
        batch_tokens=recipe.training.batch_tokens,
        document_attention=data.document_attention,
        bos_token_id=0,
    )
    optimizer = Optimizer(model.named_parameters(), recipe.optimizer, dtype=dtype)
    sequences = min(decision.micro_batch_sequences, len(ranks.share(recipe.batch_sequences)))
    shape = (sequences, data.sequence_length + 1)
    ids_BS1 = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(ranks.device)

    def one_pass() -> None:
        objective(ids_BS1)[0].backward()

    one_pass()  # the first one also meets the kernels and allocates
    a_pass = min(_seconds(one_pass, ranks.device) for _ in range(PASSES))
    optimizer.step(lr=0.0)
    an_update = _seconds(lambda: optimizer.step(lr=0.0), ranks.device)
    share = len(ranks.share(recipe.batch_sequences))
    return recipe.training.batch_tokens / (a_pass * share / sequences + an_update)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
