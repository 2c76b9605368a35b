"""From minutes to a model size and a recipe: how much this machine can learn in the time there is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from grainline.documents import ModelConfig, Recipe
from grainline.models.count import flops_per_token
from grainline.plan.scaling_laws import batch_tokens, learning_rate

SEQUENCE_LENGTH = 256
VALIDATION_FRACTION = 0.03
RATE_FOR_MUON = 0.4
"""Of the rate that the laws give AdamW, for Muon's matrices; both models get the same."""
TABLE_RATE = 3.0
"""Of the matrices' rate, for embeddings, head and router: AdamW's part keeps about the rate that the laws give it."""
MTP_EVERY = 4
BALANCE_LOSS = 0.01
RESERVE_SHARE, RESERVE_SECONDS = 0.12, 8.0
"""Of the time, kept for baselines, evaluation, samples and the report."""
LEAST_STEPS = 20


@dataclass(frozen=True)
class Speed:
    """Seconds of one step of `batch_tokens`, measured here, for the sparse model and its dense twin."""

    sparse: float
    dense: float
    batch_tokens: int
    compute: Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Budget:
    """What the time is spent on. Both models take the same steps over the same tokens."""

    depth: int
    steps: int
    batch_tokens: int
    sequence_length: int
    learning_rate: float
    compute: Literal["float32", "bfloat16"]
    flops_per_token: float
    seconds_per_step: float
    dense_seconds_per_step: float

    @property
    def tokens(self) -> int:
        """Tokens that each model learns from."""
        return self.steps * self.batch_tokens

    def tables(self) -> dict[str, Any]:
        """Plain values, as kept in quickstart.json."""
        return {**asdict(self), "tokens": self.tokens}


def depth_for(minutes: float) -> int:
    """Layers that suit the time: compute grows with time and size with depth³, and the laws give each about its root.

    3 at the default of 5 minutes, 2 at one, 5 at an hour, 8 in a day.
    """
    return max(2, round(3 * (minutes / 5) ** (1 / 6)))


def vocabulary_for(depth: int) -> int:
    """Entries of the tokenizer: small models would spend most of their parameters on a large one."""
    return 4096 if depth < 8 else 16_384 if depth < 16 else 65_536


def plan_budget(config: ModelConfig, depth: int, speed: Speed, seconds: float) -> Budget:
    """Split `seconds` between the two models, and set batch and rate by the Ling laws for the compute that buys."""
    available = max(0.0, seconds * (1 - RESERVE_SHARE) - RESERVE_SECONDS)
    tokens = available / (speed.sparse + speed.dense) * speed.batch_tokens
    flops = flops_per_token(config, SEQUENCE_LENGTH, mtp=1 / MTP_EVERY)
    spent = max(tokens, LEAST_STEPS * SEQUENCE_LENGTH) * flops
    batch = max(1, round(batch_tokens(spent) / SEQUENCE_LENGTH)) * SEQUENCE_LENGTH
    scale = batch / speed.batch_tokens
    return Budget(
        depth=depth,
        steps=max(LEAST_STEPS, math.floor(tokens / batch)),
        batch_tokens=batch,
        sequence_length=SEQUENCE_LENGTH,
        learning_rate=RATE_FOR_MUON * learning_rate(spent),
        compute=speed.compute,
        flops_per_token=flops,
        seconds_per_step=speed.sparse * scale,
        dense_seconds_per_step=speed.dense * scale,
    )


def balance_loss(config: ModelConfig) -> float:
    """The coefficient: 0 where a bias keeps the experts even, or the way they are chosen; the common 0.01 elsewhere."""
    moe = config.moe
    return 0.0 if moe is None or moe.bias_balanced or moe.router == "expert-choice" else BALANCE_LOSS


def recipe_for(
    budget: Budget, config: ModelConfig, text: tuple[str, ...], tokenizer: str, max_bytes: int | None, seed: int
) -> Recipe:
    """The recipe of one of the two models."""
    validate_every = max(10, budget.steps // 12)
    return Recipe.parse(
        {
            "name": "quickstart" if config.moe else "quickstart-dense",
            "seed": seed,
            "model": {"config": config.tables()},
            "data": {
                "text": list(text),
                "tokenizer": tokenizer,
                "sequence_length": budget.sequence_length,
                "validation_fraction": VALIDATION_FRACTION,
                **({"max_bytes": max_bytes} if max_bytes else {}),
            },
            "training": {"steps": budget.steps, "batch_tokens": budget.batch_tokens},
            "optimizer": {"table_rate": TABLE_RATE},
            "learning_rate": {
                "schedule": "wsd",
                "peak": budget.learning_rate,
                "warmup_steps": max(1, budget.steps // 20),
                "decay_fraction": 0.4,
            },
            "loss": {"bias_rate": 0.02, "mtp_every": MTP_EVERY, "balance_loss": balance_loss(config)},
            "precision": {"compute": budget.compute},
            "validation": {"every": validate_every, "max_sequences": 32},
            "checkpoint": {"every": max(20, budget.steps // 6), "keep": 1},
        },
        where="quickstart",
    )
