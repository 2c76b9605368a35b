"""Objectives: what is to be least of a step. Time, dollars, or energy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from grainline.documents import GrainlineError
from grainline.documents.cluster import DeviceType
from grainline.plan.layouts.bill import IDLE_SHARE
from grainline.plan.layouts.estimate import Estimate
from grainline.plan.layouts.fleet import Fleet

Objective = Callable[[Estimate, Fleet], float]
"""Of a step on the devices that it uses."""


def time(estimate: Estimate, fleet: Fleet) -> float:
    """Seconds."""
    return estimate.step_seconds


def cost(estimate: Estimate, fleet: Fleet) -> float:
    """Dollars. Raises GrainlineError where a device has no price."""
    return _total(estimate, fleet, "price_per_hour") * estimate.step_seconds / 3600


def energy(estimate: Estimate, fleet: Fleet) -> float:
    """Joules: idle power throughout, the rest while devices compute. Raises GrainlineError where none is told."""
    watts = _total(estimate, fleet, "power_watts")
    return watts * (IDLE_SHARE + (1 - IDLE_SHARE) * busy_share(estimate)) * estimate.step_seconds


def busy_share(estimate: Estimate) -> float:
    """Of a step, that the slowest rank computes; others are taken to compute as long, which they do at most."""
    seconds = estimate.seconds
    return (seconds.compute + seconds.recompute + seconds.update) / estimate.step_seconds


def _total(estimate: Estimate, fleet: Fleet, key: str) -> float:
    """Of the devices that are used."""
    kinds = Counter(device.name for device in fleet.types[: estimate.strategy.ranks])
    first = {device.name: device for device in fleet.types}
    return sum(count * _known(first[name], key) for name, count in kinds.items())


def _known(device: DeviceType, key: str) -> float:
    found = getattr(device, key)
    if found is None:
        raise GrainlineError(
            f"device type '{device.name}' has no {key}: add it to the cluster, or plan for --objective time."
        )
    return float(found)


OBJECTIVES: Mapping[str, Objective] = {"time": time, "cost": cost, "energy": energy}
