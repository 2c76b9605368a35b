"""The three seams of an expert layer, as protocols, and what passes between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from grainline.documents.moe import Moe
from grainline.documents.recipe import Opening

ALL_OPEN = Opening()
"""Every expert may be chosen."""


@dataclass(frozen=True)
class Moment:
    """When a router is asked: some choose otherwise in training, and as it goes on."""

    training: bool = False
    progress: float = 1.0  # share of the training steps that are done
    seed: int = 0  # of draws: the run's and the step's, alike on all ranks
    opening: Opening = ALL_OPEN  # which experts are open; see `progressive`


AT_REST = Moment()
"""Validation, generation, and a model by itself."""


@dataclass(frozen=True)
class Routing:
    """Who goes where: flat lists sorted by unit (a token here), 0…E experts per unit, scores final."""

    unit_N: Tensor
    expert_N: Tensor
    score_N: Tensor
    counts_E: Tensor


@dataclass(frozen=True)
class RouterReport:
    """What a router adds to the loss (sums over tokens, before their coefficients) and how it loaded the experts."""

    z: Tensor
    balance: Tensor
    counts_E: Tensor  # choices of each: experts with weights (the pool's), then costless ones
    rows_E: Tensor  # what each computes: its choices, less what a capacity or tiles drop, and what tiles add
    entropy: Tensor  # Σ over tokens of −Σ p·log p, in nats: how undecided the router is


@dataclass(frozen=True)
class Routed:
    """A router's answer."""

    routing: Routing
    carry: Tensor | None = None  # [T, C] for the router of the next sparse layer
    report: RouterReport | None = None


class Router(Protocol):
    """Token states → who goes where."""

    moe: Moe
    bias_E: Tensor | None  # added to scores where experts are chosen, and stepped towards even load; see `balance`

    def __call__(
        self, x_TD: Tensor, sequences: int, report: bool, carry_TC: Tensor | None = None, moment: Moment = AT_REST
    ) -> Routed:
        """`sequences` equal runs of tokens make up T; the report is made only when asked for."""
        ...


class ExpertGroup(Protocol):
    """The stacked weights of one kind of expert."""

    width: int  # of its rows: D, or less behind a bottleneck

    def __call__(self, rows_ND: Tensor, counts_E: Tensor) -> Tensor:
        """Rows sorted by expert, `counts_E` for each → rows."""
        ...

    def mixture(self, x_TD: Tensor, score_N: Tensor, unit_N: Tensor, counts_E: Tensor) -> Tensor:
        """Σ score · expert(x[unit]) for every token → [T, D]; lists sorted by expert. Where all experts are here."""
        ...


class Dispatcher(Protocol):
    """Brings tokens to their experts and the weighted sums back. Distributed ones live in `parallel`."""

    def __call__(self, x_TD: Tensor, routing: Routing, experts: ExpertGroup) -> Tensor:
        """[T, D] → [T, D]; it decides when which rows are computed, so that it can overlap them with messages."""
        ...
