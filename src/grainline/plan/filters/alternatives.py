"""Alternatives side by side: what each changes, which are beaten by none, and what every parameter is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from grainline.documents import GrainlineError
from grainline.documents.filter_checks import assigned, conflict
from grainline.documents.filters import Filters
from grainline.plan.filters.flow import Flow, dollars_per_hour, flow_of

STEP = 0.01  # relative, of finite differences
MOST = 6  # alternatives of which all combinations are tried
NO_PARAMETERS = frozenset(
    {"schema_version", "name", "alternatives", "technology", "merge", "to", "kind", "fit", "ties"}
)


@dataclass(frozen=True)
class Compared:
    """One combination of alternatives; no names mean the pipeline as the document has it."""

    names: tuple[str, ...]
    flow: Flow
    dollars_per_hour: float

    @property
    def title(self) -> str:
        """For people."""
        return " + ".join(self.names) or "baseline"


def compare(filters: Filters, folder: Path, where: str, chosen: Sequence[str] = ()) -> list[Compared]:
    """The baseline and every combination of the alternatives `chosen` (default: all), those that conflict left out."""
    names = tuple(chosen) or tuple(filters.alternatives)
    if len(names) > MOST:
        raise GrainlineError(f"{where}: name at most {MOST} alternatives; of these all combinations are compared.")
    found = []
    for some in chain.from_iterable(combinations(names, k) for k in range(len(names) + 1)):
        keys = [filters.alternatives.get(name, {}) for name in some]
        if not any(conflict(a, b) for a, b in combinations(keys, 2)):
            found.append(evaluate(filters, folder, where, some))
    return found


def evaluate(filters: Filters, folder: Path, where: str, names: tuple[str, ...] = ()) -> Compared:
    """One combination."""
    other = filters.overlaid(names, where)
    flow = flow_of(other, folder, where)
    return Compared(names, flow, dollars_per_hour(flow, other.dollars_per_kwh))


def unbeaten(found: Sequence[Compared]) -> list[Compared]:
    """Those that no other beats in power without losing F1, by rising power (Pareto)."""
    best: list[Compared] = []
    for one in sorted(found, key=lambda each: (each.flow.watts, -each.flow.contingency.f1)):
        if not best or one.flow.contingency.f1 > best[-1].flow.contingency.f1:
            best.append(one)
    return best


def elasticities(filters: Filters, folder: Path, where: str) -> dict[str, float]:
    """∂ log productivity / ∂ log parameter of every number in the document, by central differences, largest first.

    The relevant rate is held. One-sided where the other side isn't allowed (a reduction of 1).
    """
    tables = filters.overlaid((), where).tables()
    found = {}
    for key, value in _numbers(tables):
        logs = []
        for step in (1 + STEP, 1 - STEP):
            try:
                other = Filters.parse(assigned(tables, key, value * step), where)
                logs.append((math.log(flow_of(other, folder, where).productivity), math.log(step)))
            except (GrainlineError, ValueError):
                continue
        if len(logs) == 1:
            logs.append((math.log(flow_of(filters, folder, where).productivity), 0.0))
        if len(logs) == 2:
            (high, above), (low, below) = logs
            found[key] = (high - low) / (above - below)
    return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


def _numbers(tables: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tables.items():
        if key in NO_PARAMETERS:
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and value:
            yield f"{before}{key}", float(value)
