"""The three seams of an expert layer, as protocols, and what passes between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


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
    counts_E: Tensor


class Router(Protocol):
    """Token states → who goes where."""

    def __call__(self, x_TD: Tensor, sequences: int, report: bool) -> tuple[Routing, RouterReport | None]:
        """`sequences` equal runs of tokens make up T; the report is made only when asked for."""
        ...


class ExpertGroup(Protocol):
    """The stacked weights of one kind of expert."""

    def __call__(self, rows_ND: Tensor, counts_E: Tensor) -> Tensor:
        """Rows sorted by expert, `counts_E` for each → rows."""
        ...


@dataclass(frozen=True)
class Dispatched:
    """Rows grouped by local expert, and what is needed to bring the results back."""

    rows_ND: Tensor
    counts_E: Tensor
    unit_N: Tensor
    score_N: Tensor
    units: int


class Dispatcher(Protocol):
    """Brings rows to their experts and the results back. Distributed ones live in `parallel`."""

    def dispatch(self, x_TD: Tensor, routing: Routing) -> Dispatched:
        """Token states → rows grouped by local expert."""
        ...

    def combine(self, rows_ND: Tensor, sent: Dispatched) -> Tensor:
        """Expert outputs → the score-weighted sum for every token, [T, D]."""
        ...
