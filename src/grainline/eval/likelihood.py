"""The question every measure here asks, and who answers it: how likely is this text after that context?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

BITS_PER_NAT = 1 / math.log(2)


@dataclass(frozen=True)
class Query:
    """How likely is `text` after `context`? Without a context, `text` is a document from its start."""

    text: str
    context: str = ""


@dataclass(frozen=True)
class Likelihood:
    """The answer. `bits` is −log2 P(text | context); `bytes` (UTF-8) and `tokens` are what was predicted."""

    bits: float
    bytes: int
    tokens: int


class Scorer(Protocol):
    """A model in memory or behind an endpoint."""

    def score(self, queries: Sequence[Query], progress: Callable[[int], None] | None = None) -> list[Likelihood]:
        """Answers in the order of the queries; `progress` is told how many more are answered, as they are."""
        ...
