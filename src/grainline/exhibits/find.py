"""Exhibits by name: all claims of one, or one claim."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable

from grainline.documents import GrainlineError, nearest
from grainline.exhibits import EXHIBITS
from grainline.exhibits.frame import Claim, Measurement, Scale

Measure = Callable[[Scale], Measurement]


def measures(exhibit: str) -> dict[Claim, Measure]:
    """The claims of an exhibit in its own order, each with the function that measures it."""
    found: dict[Claim, Measure] = importlib.import_module(f"grainline.exhibits.{EXHIBITS[exhibit]}").MEASURES
    return found


def find(names: Iterable[str]) -> dict[Claim, Measure]:
    """The claims that `names` mean: an exhibit's name means all of its claims. No names mean every exhibit.

    Raises GrainlineError for an unknown name, with the nearest known one.
    """
    known = {exhibit: measures(exhibit) for exhibit in EXHIBITS}
    every = {claim: measure for table in known.values() for claim, measure in table.items()}
    chosen: dict[Claim, Measure] = {}
    for name in names:
        meant = known.get(name) or {claim: measure for claim, measure in every.items() if claim.name == name}
        if not meant:
            choices = {*known, *(claim.name for claim in every)}
            raise GrainlineError(f"there is no exhibit '{name}'.{nearest(name, choices)} See grainline exhibit --list.")
        chosen |= meant
    return chosen or every
