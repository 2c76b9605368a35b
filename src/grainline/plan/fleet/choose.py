"""From a profile to the choice and what it is held against: each type alone, a greedy one, and the bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from grainline.documents import Document, GrainlineError, Part
from grainline.documents.traffic import At
from grainline.plan.fleet.problem import CEILING, SLICES, Problem
from grainline.plan.fleet.profile import Profile, unserved
from grainline.plan.fleet.solve import Fleet, cheapest, greedy, lower_bound, single_types
from grainline.plan.fleet.types import by_name

Minimise = Literal["price", "power"]


@dataclass(frozen=True)
class Chosen:
    """The choice, and its baselines. Costs are dollars an hour, or watts."""

    profile: Profile
    fleet: Fleet
    alone: tuple[Fleet | None, ...]  # each type alone, in any number; None where it can't serve all
    greedy: Fleet  # each bucket to its cheapest type, counts rounded up; stock isn't looked at
    bound: float  # whatever the slices

    @property
    def best_alone(self) -> float | None:
        """Of the cheapest single type that can serve all."""
        costs = [fleet.cost for fleet in self.alone if fleet is not None]
        return min(costs) if costs else None


def problem_of(
    profile: Profile,
    rate: float,
    *,
    minimise: Minimise = "price",
    prices: Mapping[str, float] | None = None,
    stock: Mapping[str, float] | None = None,
    least: Mapping[str, float] | None = None,
    slices: int = SLICES,
    ceiling: float = CEILING,
) -> Problem:
    """The program's input. `prices` (of a replica, an hour), `stock` and `least` are by type.

    Raises GrainlineError where a price or a power isn't known, and for numbers that can't be.
    """
    names = tuple(kind.name for kind in profile.types)
    told = by_name("price", prices or {}, names)
    limits, wanted = by_name("stock", stock or {}, names), by_name("least", least or {}, names)
    for what, values in (("stock", limits), ("least", wanted)):
        for name, value in values.items():
            if value != int(value):
                raise GrainlineError(f"{what} {name}={value:g}: a whole number of replicas is wanted.")
    costs = []
    for kind in profile.types:
        known = told.get(kind.name, kind.price_per_hour) if minimise == "price" else kind.power_watts
        if known is None and minimise == "price":
            raise GrainlineError(f"type '{kind.name}': no price is published. Give one: --price {kind.name}=DOLLARS.")
        if known is None:
            raise GrainlineError(f"type '{kind.name}': its power isn't known, so watts can't be minimised.")
        costs.append(known)
    return Problem(
        names,
        tuple(costs),
        tuple(rate * bucket.share for bucket in profile.buckets),
        profile.requests_per_second,
        slices,
        ceiling,
        tuple(int(limits[name]) if name in limits else None for name in names),
        tuple(int(wanted.get(name, 0)) for name in names),
    )


def choose(profile: Profile, problem: Problem, *, seconds: float = 30.0) -> Chosen:
    """Raises GrainlineError where traffic can't be served, saying which, why, and what would make it possible."""
    reasons = unserved(profile)
    if reasons:
        raise GrainlineError(reasons)
    fleet = cheapest(problem, seconds=seconds)
    free = dataclasses.replace(problem, stock=())
    return Chosen(profile, fleet, single_types(free), greedy(free), lower_bound(problem, seconds=seconds))


class TypeCount(Part):
    """Of a type."""

    name: str
    count: int = Field(ge=0)
    load: float = Field(description="of each replica, on average")
    price_per_hour: float | None = None


class BucketShares(Part):
    """Where a bucket's requests go."""

    input_above: int
    input_to: int
    output_above: int
    output_to: int
    shares: dict[str, float] = Field(description="type → share")


class FleetPlan(Document):
    """The choice as a file: what to rent, and the shares that a router keeps."""

    kind: ClassVar[str] = "fleet plan"
    model_config = Document.model_config | {"protected_namespaces": ()}

    model: str
    traffic: str = ""
    rate: float
    tpot_seconds: float | None = None
    ttft_seconds: float | None = None
    profile: str = Field(description="where the throughputs come from")
    bucket_size: At = "upper"
    cost: float
    minimised: Minimise = "price"
    types: tuple[TypeCount, ...]
    buckets: tuple[BucketShares, ...]

    @classmethod
    def of(
        cls, chosen: Chosen, model: str, traffic: str, *, minimised: Minimise = "price", bucket_size: At = "upper"
    ) -> FleetPlan:
        """Of a choice."""
        fleet, profile = chosen.fleet, chosen.profile
        types = tuple(
            TypeCount(
                name=kind.name,
                count=n,
                load=load,
                price_per_hour=price if minimised == "price" else kind.price_per_hour,
            )
            for kind, n, load, price in zip(profile.types, fleet.counts, fleet.loads, fleet.problem.prices, strict=True)
        )
        buckets = []
        for b, bucket in enumerate(profile.buckets):
            shares = {n: s for n, s in zip(fleet.problem.names, fleet.shares(b), strict=True) if s}
            (low_in, low_out), (high_in, high_out) = bucket.low, bucket.high
            row = BucketShares(
                input_above=low_in, input_to=high_in, output_above=low_out, output_to=high_out, shares=shares
            )
            buckets.append(row)
        return cls(
            model=model,
            traffic=traffic,
            rate=sum(fleet.problem.rates),
            tpot_seconds=profile.objective.tpot_seconds,
            ttft_seconds=profile.objective.ttft_seconds,
            profile=profile.source,
            bucket_size=bucket_size,
            cost=fleet.cost,
            minimised=minimised,
            types=types,
            buckets=tuple(buckets),
        )

    def shares_of(self, input_tokens: int, output_tokens: int) -> dict[str, float]:
        """By type, of requests of this size; raises GrainlineError where none was planned for."""
        for row in self.buckets:
            fits_in = row.input_above < input_tokens <= row.input_to
            if fits_in and row.output_above < output_tokens <= row.output_to:
                return dict(row.shares)
        raise GrainlineError(
            f"the fleet wasn't planned for requests of {input_tokens} tokens in and {output_tokens} out."
        )
