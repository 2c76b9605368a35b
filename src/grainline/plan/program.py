"""Integer linear programs as one writes them down: variables by name, sums, bounds; HiGHS (through scipy) solves them.

```
p = Program()
x = p.binary("x", 3)                        # three variables, as columns 0, 1, 2
p.at_most({x[0]: 2.0, x[1]: 3.0}, 4.0)
p.minimise({x[0]: -1.0, x[1]: -1.0, x[2]: 0.5})
answer = p.solve(seconds=10.0)
```
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from grainline.documents import GrainlineError

Sum = Mapping[int, float]
"""Column → coefficient."""
INFEASIBLE = 2  # of scipy.optimize.milp's status


class Infeasible(GrainlineError):
    """No values satisfy the constraints."""


@dataclass(frozen=True)
class Answer:
    """The best values found, and how far from the best possible they may be."""

    values: NDArray[np.float64]
    objective: float
    bound: float  # no solution has less
    proven: bool  # within the wanted gap; otherwise time ran out

    @property
    def gap(self) -> float:
        """(objective − bound) / |objective|; 0 where both are 0."""
        return 0.0 if self.objective == self.bound else (self.objective - self.bound) / max(abs(self.objective), 1e-12)


@dataclass
class Program:
    """A program being written. All sums are over columns, as given out by `binary`, `integer` and `continuous`."""

    _low: list[float] = field(default_factory=list)
    _high: list[float] = field(default_factory=list)
    _whole: list[int] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _cost: dict[int, float] = field(default_factory=dict)
    _rows: list[tuple[Sum, float, float]] = field(default_factory=list)

    def binary(self, name: str, count: int = 1) -> range:
        """Variables that are 0 or 1."""
        return self._add(name, count, 0.0, 1.0, whole=True)

    def integer(self, name: str, count: int = 1, low: float = 0.0, high: float = math.inf) -> range:
        """Whole variables."""
        return self._add(name, count, low, high, whole=True)

    def continuous(self, name: str, count: int = 1, low: float = 0.0, high: float = math.inf) -> range:
        """Real variables."""
        return self._add(name, count, low, high, whole=False)

    def _add(self, name: str, count: int, low: float, high: float, *, whole: bool) -> range:
        start = len(self._low)
        self._low += [low] * count
        self._high += [high] * count
        self._whole += [int(whole)] * count
        self._names += [name] * count
        return range(start, start + count)

    def fix(self, column: int, value: float) -> None:
        """Take a decision beforehand: a person's choice, or one that breaks a symmetry."""
        self._low[column] = self._high[column] = value

    def at_most(self, terms: Sum, limit: float) -> None:
        """Σ ≤ limit."""
        self._rows.append((terms, -math.inf, limit))

    def at_least(self, terms: Sum, limit: float) -> None:
        """Σ ≥ limit."""
        self._rows.append((terms, limit, math.inf))

    def equal(self, terms: Sum, value: float) -> None:
        """Σ = value."""
        self._rows.append((terms, value, value))

    def minimise(self, terms: Sum) -> None:
        """Add to what is minimised."""
        for column, coefficient in terms.items():
            self._cost[column] = self._cost.get(column, 0.0) + coefficient

    def solve(self, *, seconds: float = 60.0, gap: float = 1e-6) -> Answer:
        """The best values found within the time, or within the relative gap of the best possible.

        Raises Infeasible where there are none, and GrainlineError where none were found in time.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        columns = len(self._low)
        if not columns:
            return Answer(np.zeros(0), 0.0, 0.0, proven=True)
        cost = np.zeros(columns)
        for column, coefficient in self._cost.items():
            cost[column] = coefficient
        entries = [
            (row, column, value) for row, (terms, *_) in enumerate(self._rows) for column, value in terms.items()
        ]
        constraints: tuple[LinearConstraint, ...] = ()
        if self._rows:
            rows, at, data = (np.array(part) for part in zip(*entries, strict=True))
            matrix = csr_array((data.astype(float), (rows, at)), shape=(len(self._rows), columns))
            low, high = (np.array([row[i] for row in self._rows]) for i in (1, 2))
            constraints = (LinearConstraint(matrix, low, high),)
        found = milp(
            cost,
            integrality=np.array(self._whole),
            bounds=Bounds(np.array(self._low), np.array(self._high)),
            constraints=constraints,
            options={"time_limit": seconds, "mip_rel_gap": gap},
        )
        if found.status == INFEASIBLE:
            raise Infeasible("No choice satisfies all constraints.")
        if found.x is None:
            raise GrainlineError(f"No solution in {seconds:g} s ({found.message}). Allow more time.")
        bound = found.mip_dual_bound if found.mip_dual_bound is not None else found.fun
        values = np.where(np.array(self._whole, bool), np.round(found.x), found.x)
        return Answer(values, float(found.fun), float(bound), proven=found.status == 0)
