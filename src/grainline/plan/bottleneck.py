"""The ledger of BigMac (arXiv 2502.16927, section 3.3): what a bottleneck before the all-to-all costs and saves.

All of a GPT-3-like model with experts in every layer: GELU, biases, no gate. Pure functions of its sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

PASSES_OF_A_STEP = 4
"""All-to-alls of a layer: there and back, forward and backward."""


@dataclass(frozen=True)
class Sizes:
    """Of the model, and of a step."""

    layers: int
    hidden: int  # D
    vocabulary: int
    sequence: int
    experts: int
    top_k: int
    ratio: float  # r: F / D of a fine-grained expert, and R / D of a bottleneck
    batch_tokens: int
    ranks: int  # that share the experts


@dataclass(frozen=True)
class Ledger:
    """Of one training step, all ranks together."""

    parameters: float
    flops: float  # three times the forward's
    all_to_all_bytes: float  # in bfloat16

    def over(self, other: Ledger) -> Ledger:
        """Each by how much more it is than another's, as a share of that."""
        return Ledger(
            self.parameters / other.parameters - 1,
            self.flops / other.flops - 1,
            self.all_to_all_bytes / other.all_to_all_bytes - 1,
        )


def fine_grained(of: Sizes) -> Ledger:
    """Experts D → r·D → D: tokens travel D wide."""
    d, r = of.hidden, of.ratio
    block = 4 * d**2 + 8 * d + (2 * r * d**2 + 2 * r * d) * of.experts
    per_block = 2 + of.sequence / d + of.vocabulary / (2 * of.layers * d) + r * of.top_k
    travelling = (of.ranks - 1) / of.ranks
    return Ledger(
        block * of.layers + (of.vocabulary + of.experts + 2) * d,
        12 * of.batch_tokens * of.layers * d**2 * per_block,
        2 * PASSES_OF_A_STEP * of.batch_tokens * of.layers * d * of.top_k * travelling,
    )


def behind_bottleneck(of: Sizes) -> Ledger:
    """Experts r·D → D → r·D, and two projections per layer: tokens travel r·D wide."""
    plain, d, r = fine_grained(of), of.hidden, of.ratio
    return Ledger(
        plain.parameters + 2 * r * of.layers * d**2,
        plain.flops + 12 * r * of.batch_tokens * of.layers * d**2,
        plain.all_to_all_bytes * r,
    )


def speed_up(share: float, added: float, gain: float) -> float:
    """Of a step that spends this share in all-to-alls (Amdahl): they get `gain` times as fast, and all else takes
    `added` more, as a share of it.
    """
    return 1 / ((1 - share) * (1 + added) + share / gain)


def break_even_share(added: float, gain: float) -> float:
    """The share of a step in all-to-alls above which a bottleneck is worth its projections."""
    return added / (1 + added - 1 / gain)
