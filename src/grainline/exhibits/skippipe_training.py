"""Small models trained along full and partial paths, in one process, and scored with stages left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from grainline.documents import Attention, ModelConfig, Recipe
from grainline.exhibits.frame import Scale
from grainline.plan.skip.baselines import random_routes
from grainline.plan.skip.problem import SkipProblem

if TYPE_CHECKING:
    from torch import Tensor

    from grainline.models.model import Model

STAGES, MICROBATCHES, SEQUENCES, LENGTH, VOCABULARY = 6, 10, 2, 128, 1024
RATE = 2e-3

Order = tuple[int, ...]
"""Stages that a micro-batch visits."""


@dataclass(frozen=True)
class Kind:
    """A way to train: how many stages the paths have, whether the first may be skipped, and how many steps."""

    name: str
    lengths: tuple[int, ...]  # of equal numbers of micro-batches of a step
    keeps_first: bool = True
    steps: float = 1.0  # times those of full paths


KINDS: dict[str, Kind] = {
    "full": Kind("full paths", (6,)),
    "quarter": Kind("25 % skipped", (4, 5)),
    "third": Kind("33 % skipped", (4,)),
    "quarter, longer": Kind("25 % skipped, equal FLOPs", (4, 5), steps=4 / 3),
    "third, longer": Kind("33 % skipped, equal FLOPs", (4,), steps=1.5),
    "third, any": Kind("33 % skipped, the first too", (4,), keeps_first=False),
}
"""Embedding and head, which every micro-batch passes, are left out of the account of FLOPs."""


@dataclass(frozen=True)
class Trained:
    """Held-out nats per token of the whole model, and without 1, 2, 3 of the five later stages: means over choices."""

    losses: tuple[float, ...]


def model() -> ModelConfig:
    """A dense decoder with one block in each stage."""
    return ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        layers=STAGES,
        ffn_hidden=352,
        max_positions=LENGTH,
        attention=Attention(heads=4, kv_heads=2, head_dim=32, qk_norm=True),
    )


def orders(kind: Kind, seed: int) -> tuple[Order, ...]:
    """The path of each micro-batch of a step, the same in every step: random ones within SkipPipe's constraints.

    Every stage is visited as often as any other (TC1), the first by all, unless it may be skipped too.
    """
    if kind.lengths == (STAGES,):
        return (tuple(range(STAGES)),) * MICROBATCHES
    each = MICROBATCHES // len(kind.lengths)
    return tuple(order for length in kind.lengths for order in _drawn(length, each, kind.keeps_first, seed))


def _drawn(length: int, count: int, keeps_first: bool, seed: int) -> list[Order]:
    """Where the first stage is one like the others, a stage with nothing but the embedding comes before it."""
    later = STAGES - 1 if keeps_first else STAGES
    visits = count * (length - 1 if keeps_first else length)
    data = tuple(range(later, later + count))  # a data node for each micro-batch
    problem = SkipProblem(
        stages=(data, *((node,) for node in range(later))),
        forward_seconds=(1.0,) * (later + count),
        transfer_seconds=((1.0,) * (later + count),) * (later + count),
        starts=data,
        path_length=1 + visits // count,
        slots=-(-visits // later),
    )
    routes = random_routes(problem, seed)
    return [((0,) if keeps_first else ()) + tuple(n + keeps_first for n in route[1:]) for route in routes]


def trained(scale: Scale, seed: int) -> Mapping[str, Trained]:
    """All kinds, each trained once per command."""
    found = {}
    for kind in KINDS:
        file = scale.folder / f"skippipe-{kind.replace(', ', '-')}-{seed}.json"
        if not file.is_file():
            file.write_text(json.dumps(_train(KINDS[kind], seed, scale)))
        found[kind] = Trained(tuple(json.loads(file.read_text())))
    return found


def _train(kind: Kind, seed: int, scale: Scale) -> list[float]:
    import torch

    from grainline.models.build import build
    from grainline.models.cells import Batch, Carry
    from grainline.models.loss import run_cells
    from grainline.parallel import Ranks
    from grainline.train.batches import sequences_of
    from grainline.train.corpus import prepare
    from grainline.train.learning_rate import factor
    from grainline.train.optim import Optimizer

    total, tokens = round(kind.steps * scale.pick(full=250, quick=2)), MICROBATCHES * SEQUENCES * LENGTH
    recipe = _recipe(scale, seed, total)
    device = torch.device("cpu")
    corpus = prepare(recipe, scale.folder / "skippipe-data", None, Ranks(device), scale.tell)
    net = build(model(), seed=seed)
    optimizer = Optimizer(net.named_parameters(), recipe.optimizer)
    along = orders(kind, seed)
    shares = [sum(stage in order for order in along) / MICROBATCHES for stage in range(STAGES)]
    for step in range(total):
        for m, order in enumerate(along):
            first = (step * MICROBATCHES + m) * SEQUENCES
            ids_BS1 = sequences_of(corpus.train, range(first, first + SEQUENCES), device)
            _, sums = run_cells(net, cells(order), Batch.of(net.config, ids_BS1), Carry())
            sums.objective(recipe.loss, tokens).backward()
        mean_over_visits(net, shares)
        torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.optimizer.clip_norm)
        optimizer.step(RATE * factor(recipe.learning_rate, step + 1, total))
        optimizer.zero_grad()
    held_out = sequences_of(corpus.validation, range(scale.pick(full=200, quick=2)), device)
    return [_mean_loss(net, held_out, left_out) for left_out in range(4)]


def cells(order: Sequence[int]) -> list[str]:
    """A path's: the blocks of its stages between embedding and head."""
    return ["embedding", *(f"block.{stage}" for stage in order), "head"]


def mean_over_visits(net: Model, shares: Sequence[float]) -> None:
    """Gradients of blocks from sums over all micro-batches to means over those that came by; none stays none."""
    for block, share in zip(net.blocks, shares, strict=True):
        for parameter in block.parameters():
            if parameter.grad is not None:
                parameter.grad /= share


def _mean_loss(net: Model, ids_BS1: Tensor, left_out: int) -> float:
    """Nats per token without so many of the later stages, mean over all choices."""
    import torch

    from grainline.models.cells import Batch, Carry
    from grainline.models.loss import run_cells

    chosen = list(combinations(range(1, STAGES), left_out))
    total, count = 0.0, 0
    with torch.no_grad():
        for without in chosen:
            order = [stage for stage in range(STAGES) if stage not in without]
            for part_BS1 in ids_BS1.split(20):
                _, sums = run_cells(net, cells(order), Batch.of(net.config, part_BS1), Carry())
                total, count = total + float(sums.cross_entropy), count + sums.tokens
    return total / count


def _recipe(scale: Scale, seed: int, steps: int) -> Recipe:
    return Recipe.parse(
        {
            "name": "skippipe",
            "seed": seed,
            "model": {"config": model().tables()},
            "data": {
                "vocab_size": VOCABULARY,
                "sequence_length": LENGTH,
                "validation_fraction": 0.03,
                "max_bytes": scale.pick(full=5_000_000, quick=200_000),
            },
            "training": {"steps": steps, "batch_tokens": MICROBATCHES * SEQUENCES * LENGTH},
            "learning_rate": {"peak": RATE, "warmup_steps": steps // 20, "decay_fraction": 0.3},
            "precision": {"compute": "float32"},
        },
        where="skippipe",
    )
