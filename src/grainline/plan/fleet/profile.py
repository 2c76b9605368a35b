"""The profile: the most requests a second of each bucket that each type serves within the objectives, and the limit.

It is made for one model and one objective, from the cost model or from a file of measured figures: another objective
asks for another profile, it is no constraint of the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from grainline.documents import Document, GrainlineError, Part
from grainline.documents.traffic import At, Bucket, Traffic
from grainline.plan.fleet.types import FleetType
from grainline.plan.serving.throughput import Objective, Size, Throughput, throughput


@dataclass(frozen=True)
class Profile:
    """Rows are types, columns the traffic's buckets. `cells` are None where figures were measured."""

    types: tuple[FleetType, ...]
    buckets: tuple[Bucket, ...]
    requests_per_second: tuple[tuple[float, ...], ...]
    objective: Objective
    source: str
    cells: tuple[tuple[Throughput, ...], ...] | None = None

    def served(self, bucket: int) -> bool:
        """Whether any type can serve it."""
        return any(row[bucket] > 0 for row in self.requests_per_second)


def size_of(bucket: Bucket, at: At, hit_rate: float = 0.0) -> Size:
    """The request that stands for a bucket; a share of its prompt is found in the cache."""
    tokens_in, tokens_out = bucket.size(at)
    return Size(tokens_in, tokens_out, min(tokens_in - 1, int(tokens_in * hit_rate)))


def profiled(types: Sequence[FleetType], traffic: Traffic, objective: Objective, at: At = "upper") -> Profile:
    """By the cost model."""
    buckets = traffic.buckets()
    sizes = [size_of(bucket, at, traffic.prefix_hit_rate) for bucket in buckets]
    cells = []
    for kind in types:
        if kind.times is None:
            raise GrainlineError(f"type '{kind.name}' has measured figures only: there is nothing to profile.")
        cells.append(tuple(throughput(kind.times, size, objective) for size in sizes))
    rates = tuple(tuple(cell.requests_per_second for cell in row) for row in cells)
    sources = sorted({kind.times.replica.speed.source for kind in types if kind.times is not None})
    words = f"cost model: rates by {', '.join(sources)}, shares of them reached assumed"
    return Profile(tuple(types), buckets, rates, objective, words, tuple(cells))


class MeasuredType(Part):
    """A type as somebody measured it."""

    name: str
    price_per_hour: PositiveFloat | None = None
    power_watts: PositiveFloat | None = None
    requests_per_second: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] = Field(
        description="a row for each input bucket, a column for each output bucket; 0 where it can't serve it"
    )


class ServingProfile(Document):
    """Measured throughput of every type and bucket, for one model, engine and objective."""

    kind: ClassVar[str] = "serving profile"
    model_config = Document.model_config | {"protected_namespaces": ()}

    model: str = Field(description="what was served, as --model names it")
    engine: str = Field("", description="and by what, with its version")
    tpot_seconds: PositiveFloat | None = None
    ttft_seconds: PositiveFloat | None = None
    input_edges: tuple[PositiveInt, ...]
    output_edges: tuple[PositiveInt, ...]
    types: tuple[MeasuredType, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        rows, columns = len(self.input_edges), len(self.output_edges)
        for kind in self.types:
            table = kind.requests_per_second
            if len(table) != rows or any(len(row) != columns for row in table):
                raise ValueError(f"type '{kind.name}': its table isn't {rows} × {columns} as the edges say")
        return self

    def of(
        self, traffic: Traffic, objective: Objective, model: str, *, where: Path | str = "", force: bool = False
    ) -> Profile:
        """For a traffic in the same buckets. One of another model or objective is refused, unless forced."""
        for key, mine, asked in (
            ("model", self.model, model),
            ("tpot_seconds", self.tpot_seconds, objective.tpot_seconds),
            ("ttft_seconds", self.ttft_seconds, objective.ttft_seconds),
        ):
            if mine != asked and not force:
                raise GrainlineError(
                    f"{where}: was measured with {key} {mine}, and {asked} is asked for. Throughput at another one is "
                    "another figure: measure again, ask for the same, or insist with --force."
                )
        if (self.input_edges, self.output_edges) != (traffic.input_edges, traffic.output_edges):
            raise GrainlineError(
                f"{where}: its buckets end at {list(self.input_edges)} in and {list(self.output_edges)} out, the "
                f"traffic's at {list(traffic.input_edges)} and {list(traffic.output_edges)}. Give both the same."
            )
        buckets = traffic.buckets()
        place = [
            (self.input_edges.index(bucket.high[0]), self.output_edges.index(bucket.high[1])) for bucket in buckets
        ]
        rates = tuple(tuple(kind.requests_per_second[i][o] for i, o in place) for kind in self.types)
        types = tuple(FleetType(kind.name, kind.price_per_hour, kind.power_watts, f"{where}") for kind in self.types)
        return Profile(types, buckets, rates, objective, f"measured: {where} {self.engine}".rstrip())


def unserved(profile: Profile) -> str:
    """Why buckets can't be served by any type, and what would make it possible; empty where all can."""
    lines = []
    for b, bucket in enumerate(profile.buckets):
        if not profile.served(b):
            lines.append(f"  {bucket.name} ({bucket.share:.1%} of requests): {_why(profile, b)}")
    if not lines:
        return ""
    shown = lines if len(lines) <= 4 else [*lines[:4], f"  … and {len(lines) - 4} buckets more"]
    return "\n".join(["no type can serve these requests within the objectives:", *shown, *_remedies(profile)])


def _why(profile: Profile, b: int) -> str:
    if profile.cells is None:
        return "the measured profile has 0 for every type"
    words = []
    for kind, row in zip(profile.types, profile.cells, strict=True):
        cell = row[b]
        if cell.alone is None:
            words.append(f"{kind.name} lacks memory")
        else:
            seconds = cell.alone.tpot_seconds if cell.limit == "TPOT" else cell.alone.ttft_seconds
            words.append(f"{kind.name} needs {seconds * 1e3:,.0f} ms {cell.limit} alone")
    return ", ".join(words)


def _remedies(profile: Profile) -> list[str]:
    """The least objectives under which every bucket has a type that serves it alone, and memory where that lacks."""
    if profile.cells is None:
        return []
    tpot = ttft = 0.0
    lacking = False
    for b in range(len(profile.buckets)):
        if profile.served(b):
            continue
        alone = [row[b].alone for row in profile.cells]
        fit = [load for load in alone if load is not None]
        if not fit:
            lacking = True
            continue
        limits = profile.objective
        # The type that misses by the smallest factor.
        best = min(
            fit,
            key=lambda load: max(
                load.tpot_seconds / (limits.tpot_seconds or math.inf),
                load.ttft_seconds / (limits.ttft_seconds or math.inf),
            ),
        )
        tpot, ttft = max(tpot, best.tpot_seconds), max(ttft, best.ttft_seconds)
    wanted = []
    if profile.objective.tpot_seconds is not None and tpot > profile.objective.tpot_seconds:
        wanted.append(f"--tpot {math.ceil(tpot * 1e3)}")
    if profile.objective.ttft_seconds is not None and ttft > profile.objective.ttft_seconds:
        wanted.append(f"--ttft {math.ceil(ttft * 1e3)}")
    found = [f"  Possible with {' and '.join(wanted)} (milliseconds), or with faster types."] if wanted else []
    if lacking:
        found.append("  Add a type with more memory, such as 2x one of these, or narrower --weights or --cache.")
    return found
