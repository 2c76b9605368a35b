"""Twenty nodes in twelve cities, after SkipPipe's geo-distributed setting (arXiv 2502.19913 and its repository).

The authors measured latency and bandwidth between cloud regions: 3 to 132 ms and 0.009 to 0.24 GB/s. What is here is
computed from those ends: latency grows with the distance, from 3 ms up to 132 ms for the furthest pair, and bandwidth
is what one window of TCP allows at that latency, as on their pair of 129 ms and 0.0098 GB/s, up to 0.24 GB/s. Inside a
city it is 1 ms and 1 GB/s. Every hop takes 0.35 s besides, as theirs do: copies between GPU and host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations

from grainline.plan.skip.judge import Setting, costs_of
from grainline.plan.skip.placement import place
from grainline.plan.skip.plan import planned_at_once
from grainline.plan.skip.problem import SkipProblem
from grainline.schedule import Network
from grainline.schedule.simulator.graph import Link
from grainline.schedule.simulator.network import Route

# Degrees north and east.
CITIES: dict[str, tuple[float, float]] = {
    "Sydney": (-33.87, 151.21),
    "Saint-Ghislain": (50.45, 3.82),
    "Montréal": (45.50, -73.57),
    "Frankfurt": (50.11, 8.68),
    "Council Bluffs": (41.26, -95.86),
    "Tokyo": (35.68, 139.69),
    "Los Angeles": (34.05, -118.24),
    "Eemshaven": (53.43, 6.84),
    "The Dalles": (45.59, -121.18),
    "Singapore": (1.35, 103.82),
    "Changhua": (24.07, 120.54),
    "London": (51.51, -0.13),
}
EARTH_KM = 6371.0
NEAREST_SECONDS, FURTHEST_SECONDS = 3e-3, 132e-3
WINDOW_BYTES = 129e-3 * 0.0098e9  # latency × bandwidth of the pair that is told of
FASTEST_BYTES_PER_SECOND = 0.24e9
INSIDE_SECONDS, INSIDE_BYTES_PER_SECOND = 1e-3, 1e9
HOP_SECONDS = 0.35

NODES, SIZES, SLOTS = 20, (5, 3, 3, 3, 3, 3), 3
LAYERS_PER_STAGE, SEQUENCES, LENGTH, HIDDEN = 4, 8, 1024, 1024
LAYER_SECONDS = 0.055  # forward of one layer and sequence, as measured by the authors
LAYER_PARAMETERS = 16_779_264
ACTIVATION_BYTES = 4.0 * SEQUENCES * LENGTH * HIDDEN
GRADIENT_BYTES = 4.0 * LAYERS_PER_STAGE * LAYER_PARAMETERS


def distance_km(one: str, other: str) -> float:
    """Along a great circle."""
    (north, east), (north2, east2) = ((math.radians(x) for x in CITIES[city]) for city in (one, other))
    half = math.sin((north - north2) / 2) ** 2 + math.cos(north) * math.cos(north2) * math.sin((east - east2) / 2) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(half))


@cache
def _furthest_km() -> float:
    return max(distance_km(*pair) for pair in combinations(CITIES, 2))


def latency_seconds(one: str, other: str) -> float:
    """One way."""
    if one == other:
        return INSIDE_SECONDS
    return max(NEAREST_SECONDS, FURTHEST_SECONDS * distance_km(one, other) / _furthest_km())


def bytes_per_second(one: str, other: str) -> float:
    """Of one stream."""
    if one == other:
        return INSIDE_BYTES_PER_SECOND
    return min(FASTEST_BYTES_PER_SECOND, WINDOW_BYTES / latency_seconds(one, other))


def city_of(node: int) -> str:
    """Nodes are dealt out to the cities in turn."""
    return list(CITIES)[node % len(CITIES)]


def transfer_seconds() -> tuple[tuple[float, ...], ...]:
    """Of one micro-batch's activations."""

    def seconds(a: int, b: int) -> float:
        if a == b:
            return 0.0
        ends = city_of(a), city_of(b)
        return HOP_SECONDS + latency_seconds(*ends) + ACTIVATION_BYTES / bytes_per_second(*ends)

    return tuple(tuple(seconds(a, b) for b in range(NODES)) for a in range(NODES))


@cache
def placed(seed: int, trials: int) -> tuple[tuple[int, ...], ...]:
    """Stages of SIZES; gradients weigh as their bytes over those of a data node's six micro-batches."""
    weight = GRADIENT_BYTES / (ACTIVATION_BYTES * 6)
    return place(transfer_seconds(), SIZES, gradient_weight=weight, seed=seed, trials=trials).stages


def problem(stages: Sequence[Sequence[int]], path_length: int, layer_seconds: float = LAYER_SECONDS) -> SkipProblem:
    """As many micro-batches at once as fit, shared out among the data nodes in turn."""
    agents = planned_at_once(SIZES, path_length, SLOTS)
    starts = tuple(stages[0][agent % len(stages[0])] for agent in range(agents))
    forward = layer_seconds * LAYERS_PER_STAGE * SEQUENCES
    return SkipProblem(tuple(map(tuple, stages)), (forward,) * NODES, transfer_seconds(), starts, path_length, SLOTS)


def setting(of: SkipProblem) -> Setting:
    """For the simulator: a line of its own between every two nodes, each way."""
    names = [(a, b) for a in range(NODES) for b in range(NODES)]
    links = tuple(Link(f"{a}→{b}", bytes_per_second(city_of(a), city_of(b))) for a, b in names)

    def between(source: int, target: int) -> Route:
        return Route(HOP_SECONDS + latency_seconds(city_of(source), city_of(target)), (source * NODES + target,))

    return Setting(costs_of(of, ACTIVATION_BYTES), Network(links, between))
