"""The types that a fleet is made of: a device or a group of them, with what an hour of it costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grainline.documents import GrainlineError, ModelConfig, nearest
from grainline.hardware.catalogue import catalogue
from grainline.plan.serving.calibrate import Sample, calibrated
from grainline.plan.serving.replica import Replica, group_of, listed_replica
from grainline.plan.serving.times import Times


@dataclass(frozen=True)
class FleetType:
    """One type. `times` is None where its throughput was measured and nothing else is known of it."""

    name: str
    price_per_hour: float | None  # of all its devices, US dollars
    power_watts: float | None  # of all its devices
    price_source: str = ""
    times: Times | None = None

    @property
    def replica(self) -> Replica | None:
        """The model on it."""
        return None if self.times is None else self.times.replica


def listed_types(
    names: tuple[str, ...],
    config: ModelConfig,
    *,
    weights: str = "bfloat16",
    cache: str = "bfloat16",
    chunk_tokens: int = 2048,
    measured: Mapping[str, Sequence[Sample]] | None = None,
) -> tuple[FleetType, ...]:
    """Types by their names in the catalogue, groups as in ``2xA100-80``; `measured` ops calibrate a device's costs."""
    found: list[FleetType] = []
    for name in names:
        replica = listed_replica(name, config, weights=weights, cache=cache, chunk_tokens=chunk_tokens)
        if any(kind.name == replica.name for kind in found):
            raise GrainlineError(f"type '{replica.name}' is named twice.")
        device = catalogue().device(group_of(name)[1])
        samples = (measured or {}).get(device.name)
        if samples:
            replica = dataclasses.replace(replica, speed=calibrated(replica.speed, samples))
        price, watts = device.price_per_hour, device.power_watts
        found.append(
            FleetType(
                replica.name,
                None if price is None else price * replica.ranks,
                None if watts is None else watts * replica.ranks,
                "" if price is None else device.origin("price_per_hour").reference,
                Times(replica),
            )
        )
    if not found:
        raise GrainlineError("a fleet needs at least one type: name some, as in A10G 2xA100-80.")
    return tuple(found)


def by_name(what: str, values: Mapping[str, float], known: tuple[str, ...]) -> dict[str, float]:
    """Values that a person gave by type, under the types' names. Raises GrainlineError for names that aren't there.

    A name is met whatever its case, and by the catalogue's aliases.
    """
    spelled = {name.lower(): name for name in known}
    found = {}
    for key, value in values.items():
        name = spelled.get(key.lower())
        if name is None:
            try:
                ranks, device = group_of(key)
                listed = catalogue().device(device).name
            except GrainlineError:
                listed, ranks = key, 1
            name = spelled.get((listed if ranks == 1 else f"{ranks}x{listed}").lower())
        if name is None:
            raise GrainlineError(f"{what} {key}: no such type is asked for.{nearest(key, known)}")
        if not 0 <= value < math.inf:
            raise GrainlineError(f"{what} {key}={value:g}: it can't be negative, and must be a number.")
        found[name] = value
    return found
