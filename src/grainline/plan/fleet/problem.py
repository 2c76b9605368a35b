"""The problem: rates of buckets, throughputs of types, prices, and what limits the choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from grainline.documents import GrainlineError

SLICES = 8
"""Into how many equal parts a bucket's rate may be split. The published solver finds 4 enough."""
CEILING = 0.85
"""Of a type's load: at 1, where throughput was measured, queues under Poisson arrivals have no bound."""


@dataclass(frozen=True)
class Problem:
    """Types are rows, buckets columns. All buckets have requests."""

    names: tuple[str, ...]
    prices: tuple[float, ...]  # of a replica; dollars an hour, or watts: what is to be as little as can be
    rates: tuple[float, ...]  # requests per second of each bucket
    throughput: tuple[tuple[float, ...], ...]  # requests per second of one replica at load 1; 0: can't
    slices: int = SLICES
    ceiling: float = CEILING
    stock: tuple[int | None, ...] = ()  # at most so many replicas; None, or left out: any number
    least: tuple[int, ...] = ()  # at least so many, whatever the load

    def __post_init__(self) -> None:
        if self.slices < 1:
            raise GrainlineError(f"slices {self.slices}: a bucket is split into at least 1.")
        if not 0 < self.ceiling <= 1:
            raise GrainlineError(f"a ceiling of {self.ceiling:g} of the load: it must lie above 0 and not above 1.")
        if not self.rates or any(not 0 < rate < math.inf for rate in self.rates):
            raise GrainlineError("a bucket's rate must be positive: traffic without requests needs no devices.")
        for name, price, row in zip(self.names, self.prices, self.throughput, strict=True):
            if not 0 <= price < math.inf:
                raise GrainlineError(f"type '{name}': a price of {price:g} can't be; it is a number, and not negative.")
            if len(row) != len(self.rates):
                raise GrainlineError(f"type '{name}': {len(row)} throughputs for {len(self.rates)} buckets.")
            if any(not 0 <= value < math.inf for value in row):
                raise GrainlineError(f"type '{name}': throughputs must be numbers and not negative; 0 where it can't.")
        for values in (self.stock, self.least):
            if values and len(values) != len(self.names):
                raise GrainlineError(f"{len(values)} limits for {len(self.names)} types.")
        for g, name in enumerate(self.names):
            if self.least and self.most(g) < self.least[g]:
                raise GrainlineError(
                    f"type '{name}': at least {self.least[g]} and at most {self.stock[g]} can't both be."
                )

    def most(self, g: int) -> float:
        """Replicas of a type that there are."""
        value = self.stock[g] if self.stock else None
        return math.inf if value is None else value

    @cached_property
    def loads(self) -> tuple[tuple[float | None, ...], ...]:
        """By type and bucket: what one slice loads a replica with; None where the type can't serve it."""
        return tuple(
            tuple(rate / self.slices / t if t > 0 else None for rate, t in zip(self.rates, row, strict=True))
            for row in self.throughput
        )

    def of_type(self, g: int) -> Problem:
        """With that type alone, in any number."""
        return Problem(
            (self.names[g],), (self.prices[g],), self.rates, (self.throughput[g],), self.slices, self.ceiling
        )
