"""What a rank's share of the vocabulary costs where it is split over all ranks (arXiv 2411.05288, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grainline.documents import ModelConfig
from grainline.plan.cost import Speed
from grainline.plan.memory import PARAMETER, MicroBatch
from grainline.plan.work import Op, linear
from grainline.schedule.actions import Kind

CELLS = frozenset({"embedding", "mtp_head", "head"})
"""Kinds of cell whose work is in the passes instead."""
STATISTICS = 3  # numbers of each row, in float32: maximum, sum, the label's logit


@dataclass(frozen=True)
class VocabularyCosts:
    """Seconds of S, T, EMBED and EMBED_GRAD by rank, tensors of the collectives, parameters of each rank."""

    seconds_on: dict[tuple[Kind, int], float]
    collective_bytes: dict[Kind, float]
    parameters: int

    @property
    def rank_seconds(self) -> dict[Kind, float]:
        """Of the slowest rank."""
        found: dict[Kind, float] = {}
        for (kind, _), seconds in self.seconds_on.items():
            found[kind] = max(seconds, found.get(kind, 0.0))
        return found


def vocabulary_costs(
    config: ModelConfig, batch: MicroBatch, speeds: Sequence[Speed], algorithm: Literal["vocab1", "vocab2"]
) -> VocabularyCosts:
    """vocab1 has the logits in S, and both gradients in T; vocab2 that of the hidden states in S too."""
    size, width, ranks = config.hidden_size, batch.width, len(speeds)
    further = batch.tokens / batch.mtp_every if config.mtp_depth else 0.0
    rows, here = batch.tokens + further, -(-config.vocab_size // ranks)
    product = linear(rows, size, here, batch)
    softmax = Op(0, 4 * PARAMETER * rows * here)
    s, t = [*product.forward, softmax], [*product.weight_gradient]
    (s if algorithm == "vocab2" else t).extend(product.input_gradient)
    looked_up = Op(0, batch.tokens * size * (PARAMETER + width))
    added = Op(0, batch.tokens * size * (width + 2 * PARAMETER))
    passes = {Kind.S: s, Kind.T: t, Kind.EMBED: [looked_up], Kind.EMBED_GRAD: [added]}
    hidden = float(width * rows * size)
    statistics = STATISTICS * PARAMETER * rows
    return VocabularyCosts(
        {(kind, rank): speed.seconds(ops) for kind, ops in passes.items() for rank, speed in enumerate(speeds)},
        {
            Kind.C0: hidden,
            Kind.C1: statistics + (PARAMETER * rows * size if algorithm == "vocab2" else 0.0),
            **({Kind.C2: PARAMETER * rows * size} if algorithm == "vocab1" else {}),
            Kind.C_EMBED: float(width * batch.tokens * size),
            Kind.C_EMBED_GRAD: float(width * batch.tokens * size),
        },
        here * size * (1 if config.tie_embeddings else 2),
    )
