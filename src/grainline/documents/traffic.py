"""Traffic: how many requests a second come, and how long their prompts and answers are."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from grainline.documents.base import Document, Part, override
from grainline.documents.errors import DocumentError, GrainlineError
from grainline.documents.traffic_presets import PRESETS, Preset
from grainline.documents.traffic_requests import Request, read_requests

Edges = tuple[PositiveInt, ...]
INPUT_EDGES: Edges = (25, 100, 250, 500, 1000, 2000, 4000, 8000, 16000, 32000)
OUTPUT_EDGES: Edges = (25, 100, 250, 500, 1000, 2000)
TOLERANCE = 1e-6  # of the sum of shares
At = Literal["upper", "mean"]
"""Which size stands for a bucket: its upper corner, which is safe, or the mean of what is in it."""


class Component(Part):
    """A part of the traffic by a published summary, with log-normal lengths; see `traffic_presets`."""

    preset: str
    share: float = Field(1.0, gt=0)


class Bucket(Part):
    """Requests of like sizes. `share` is of all requests; the means are of what is known to be in it."""

    low: tuple[int, int] = Field(description="tokens in and out; more than so many")
    high: tuple[int, int] = Field(description="up to so many")
    mean: tuple[float, float]
    share: float

    @property
    def name(self) -> str:
        """``100–250 in, 25–100 out``."""
        return f"{self.low[0]:,}–{self.high[0]:,} in, {self.low[1]:,}–{self.high[1]:,} out"

    def size(self, at: At) -> tuple[int, int]:
        """Tokens in and out that stand for the bucket."""
        return self.high if at == "upper" else (math.ceil(self.mean[0]), math.ceil(self.mean[1]))


class Traffic(Document):
    """Requests a second and their sizes: as shares of buckets, as a list of requests, or by published summaries."""

    kind: ClassVar[str] = "traffic"

    name: str = ""
    rate: float | None = Field(None, description="requests per second; default: that of the list's arrival times")
    input_edges: Edges = Field(INPUT_EDGES, description="upper ends of buckets, in tokens; the first begins at 0")
    output_edges: Edges = OUTPUT_EDGES
    shares: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] = Field(
        (), description="a row for each input bucket, a column for each output bucket"
    )
    normalise: bool = Field(False, description="whether shares that don't sum to 1 are made to")
    requests: str = Field("", description="a CSV or JSONL file beside this one: input_tokens, output_tokens, time")
    mix: tuple[Component, ...] = Field((), description="published summaries, by preset")
    prefix_hit_rate: float = Field(0.0, ge=0, lt=1, description="share of prompt tokens found in the cache")

    @model_validator(mode="after")
    def _holds(self) -> Self:
        for key in ("input_edges", "output_edges"):
            edges = getattr(self, key)
            if not edges or any(a >= b for a, b in pairwise(edges)):
                raise ValueError(f"{key} must rise, and there must be at least one")
        told = [key for key in ("shares", "requests", "mix") if getattr(self, key)]
        if len(told) != 1:
            raise ValueError(f"give one of shares, requests and mix, not {' and '.join(told) or 'none'}")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"rate {self.rate:g}: traffic without requests needs no devices; it must be positive")
        if self.rate is None and not self.requests:
            raise ValueError("rate is needed: requests per second")
        for part in self.mix:
            if part.preset not in PRESETS:
                raise ValueError(f"mix has no preset '{part.preset}': there are {', '.join(PRESETS)}")
        if self.shares:
            self._shares_fit()
        return self

    def _shares_fit(self) -> None:
        rows, columns = len(self.input_edges), len(self.output_edges)
        if len(self.shares) != rows or any(len(row) != columns for row in self.shares):
            shape = f"{len(self.shares)} × {'/'.join(sorted({str(len(row)) for row in self.shares}))}"
            raise ValueError(f"shares are {shape}, and the edges make {rows} × {columns} buckets")
        total = sum(map(sum, self.shares))
        if not math.isfinite(total) or total <= 0:
            raise ValueError("shares must have a positive sum")
        if abs(total - 1) > TOLERANCE and not self.normalise:
            raise ValueError(f"shares sum to {total:.6g}, not to 1; with normalise = true they are scaled to it")

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:  # type: ignore[override]
        """Read it; a list of requests that it names is read too, and replaced by its histogram.

        A .csv or .jsonl file is read as such a list.
        """
        path = Path(path)
        if path.suffix in (".csv", ".jsonl"):
            told = cls.parse(override({"requests": path.name}, overrides), path)
            return cls.of_requests(path, read_requests(path), told)
        found = super().load(path, overrides)
        if not found.requests:
            return found
        listed = read_requests(path.parent / found.requests)
        return cls.of_requests(path, listed, found)

    @classmethod
    def of_requests(cls, where: Path, listed: Sequence[Request], told: Self) -> Self:
        """A histogram of listed requests; edges, rate and hit rate are those told."""
        inputs, outputs = told.input_edges, told.output_edges
        rate = told.rate if told.rate is not None else _rate(listed, where)
        largest = max(r.input_tokens for r in listed), max(r.output_tokens for r in listed)
        inputs, outputs = _reaching(inputs, largest[0]), _reaching(outputs, largest[1])
        counts = [[0.0] * len(outputs) for _ in inputs]
        for r in listed:
            counts[bisect_left(inputs, r.input_tokens)][bisect_left(outputs, r.output_tokens)] += 1 / len(listed)
        tables: dict[str, Any] = {
            "name": told.name or where.stem,
            "rate": rate,
            "input_edges": inputs,
            "output_edges": outputs,
            "shares": tuple(map(tuple, counts)),
            "normalise": True,
            "prefix_hit_rate": told.prefix_hit_rate,
        }
        return cls.parse(tables, where)

    @property
    def requests_per_second(self) -> float:
        """The rate, which is known once requests have been read."""
        if self.rate is None:
            raise GrainlineError("traffic: the rate isn't known before its list of requests has been read.")
        return self.rate

    def buckets(self) -> tuple[Bucket, ...]:
        """Those that have requests, in order; shares sum to 1."""
        shares = self._histogram()
        total = sum(map(sum, shares))
        found = []
        for i, (low_i, high_i) in enumerate(_spans(self.input_edges)):
            for o, (low_o, high_o) in enumerate(_spans(self.output_edges)):
                if shares[i][o] > 0:
                    mean = (low_i + high_i + 1) / 2, (low_o + high_o + 1) / 2
                    bucket = Bucket(low=(low_i, low_o), high=(high_i, high_o), mean=mean, share=shares[i][o] / total)
                    found.append(bucket)
        return tuple(found)

    def _histogram(self) -> Sequence[Sequence[float]]:
        if self.shares:
            return self.shares
        total = sum(part.share for part in self.mix)
        rows = [[0.0] * len(self.output_edges) for _ in self.input_edges]
        for part in self.mix:
            preset = PRESETS[part.preset]
            inputs = preset.inside(_spans(self.input_edges), of_output=False)
            outputs = preset.inside(_spans(self.output_edges), of_output=True)
            for i, a in enumerate(inputs):
                for o, b in enumerate(outputs):
                    rows[i][o] += part.share / total * a * b
        return [[share if share >= Preset.LEAST else 0.0 for share in row] for row in rows]


def _rate(listed: Sequence[Request], where: Path) -> float:
    """From the first arrival to the last."""
    times = [r.time for r in listed if r.time is not None]
    span = max(times) - min(times) if len(times) > 1 else 0.0
    if len(times) < len(listed) or span <= 0:
        raise DocumentError(
            ["the requests don't tell a rate (a 'time' in seconds for each, not all the same): give rate."], where
        )
    return (len(times) - 1) / span


def _reaching(edges: Edges, largest: int) -> Edges:
    """With one bucket more where the largest request lies beyond the last."""
    return edges if largest <= edges[-1] else (*edges, largest)


def _spans(edges: Edges) -> list[tuple[int, int]]:
    return list(pairwise((0, *edges)))
