"""[placement]: which ranks hold which expert, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Self

from pydantic import Field, PositiveInt, model_validator

from grainline.documents.base import Part

Holders = tuple[tuple[int, ...], ...]
"""Of each expert of a layer, the ranks that have it."""

ROW = re.compile(r"(\d+): *((?:\d+(?:\+\d+)*)(?: +\d+(?:\+\d+)*)*) *")


class ExpertPlacement(Part):
    """Experts → ranks, as `grainline plan place` decides them from a routing trace."""

    ranks: PositiveInt = Field(description="expert-parallel ranks, numbered from 0")
    experts: tuple[str, ...] = Field(
        min_length=1,
        description="a line for each sparse layer, as in '3: 0 0 1 0+1': layer 3 has four experts, the first two on "
        "rank 0, the third on rank 1, and a copy of the fourth on each",
    )
    router: str = Field("", description="fingerprint of the routers whose choices were traced")

    @classmethod
    def of(cls, ranks: int, layers: dict[int, Holders], router: str = "") -> Self:
        """From the holders of each expert, by number of the layer."""
        rows = (f"{layer}: {' '.join('+'.join(map(str, each)) for each in row)}" for layer, row in layers.items())
        return cls(ranks=ranks, experts=tuple(rows), router=router)

    @cached_property
    def layers(self) -> dict[int, Holders]:
        """Number of a layer → the holders of its experts."""
        return dict(map(_row, self.experts))

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        rows = [_row(line) for line in self.experts]
        numbers = [layer for layer, _ in rows]
        if numbers != sorted(set(numbers)):
            raise ValueError(f"experts: layers {', '.join(map(str, numbers))} must rise")
        first = len(rows[0][1])
        for layer, row in rows:
            if len(row) != first:
                raise ValueError(f"experts: layer {layer} has {len(row)} experts, layer {numbers[0]} has {first}")
            _check(layer, row, self.ranks)
        return self


def _row(line: str) -> tuple[int, Holders]:
    found = ROW.fullmatch(line)
    if found is None:
        raise ValueError(f"experts: '{line}' isn't a layer and its experts' ranks, as in '3: 0 0 1 0+1'")
    layer, ranks = found.groups()
    return int(layer), tuple(tuple(map(int, each.split("+"))) for each in ranks.split())


def _check(layer: int, row: Sequence[Sequence[int]], ranks: int) -> None:
    for expert, holders in enumerate(row):
        if len(set(holders)) < len(holders):
            raise ValueError(f"experts: expert {expert} of layer {layer} is on one rank twice")
        if max(holders) >= ranks:
            raise ValueError(
                f"experts: expert {expert} of layer {layer} is on rank {max(holders)}, and the last is {ranks - 1}"
            )
