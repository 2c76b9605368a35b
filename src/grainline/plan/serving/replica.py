"""A replica: a model on one device or a group of them, its dtypes, and what fits into its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from grainline.documents import GrainlineError, ModelConfig
from grainline.hardware.catalogue import catalogue
from grainline.models.count import WIDTH, kv_cache_bytes_per_token, parameters, state_bytes_per_sequence
from grainline.plan.serving.ops import VALUE, Family
from grainline.plan.serving.speed import ASSUMED, Reached, Speed, link_rate, speed_of

USABLE = 0.9
"""Assumed: the share of a device's memory that weights and cache may take; activations and workspaces have the rest."""


@dataclass(frozen=True)
class Replica:
    """`ranks` devices of a type, which split every layer (tensor parallelism), and the model that they hold."""

    name: str
    speed: Speed
    ranks: int
    config: ModelConfig
    weights: str = "bfloat16"
    cache: str = "bfloat16"
    chunk_tokens: int = 2048  # new tokens of a step at most: long prompts are read in several steps
    most_sequences: int = 256  # at once

    def __post_init__(self) -> None:
        a = self.config.attention
        for what, dtype in (("weights", self.weights), ("cache", self.cache)):
            if dtype not in WIDTH:
                raise GrainlineError(f"{what} in '{dtype}': known are {', '.join(WIDTH)}.")
        if a.heads % self.ranks:
            raise GrainlineError(f"{self.name}: {a.heads} attention heads don't split over {self.ranks} devices.")
        if self.chunk_tokens < 1 or self.most_sequences < 1:
            raise GrainlineError(f"{self.name}: a step takes at least one token and one sequence.")
        self.speed.compute_dtype(self.weights)  # raises where there is no rate

    @property
    def weight_bytes(self) -> float:
        """Of one rank. Embedding and output layer stay in 16 bits; MTP isn't served."""
        count = parameters(self.config)
        tables = count.embedding + count.head
        wide = max(WIDTH[self.weights], float(VALUE)) if WIDTH[self.weights] < VALUE else WIDTH[self.weights]
        return ((count.total - tables) * WIDTH[self.weights] + tables * wide) / self.ranks

    @property
    def cache_bytes_per_token(self) -> float:
        """Of one rank: heads of keys and values are split as far as there are some, MLA's latent is held by each."""
        a = self.config.attention
        split = 1 if a.kind == "mla" else min(self.ranks, a.key_value_heads)
        return kv_cache_bytes_per_token(self.config, self.cache) / split

    @property
    def cache_bytes(self) -> float:
        """That one rank has for its cache; negative where not even the weights fit."""
        return USABLE * self.speed.capacity_bytes - self.weight_bytes

    @property
    def cache_tokens(self) -> float:
        """Positions of all sequences together that fit."""
        return max(0.0, self.cache_bytes / self.cache_bytes_per_token)

    def held_tokens(self, context: float) -> float:
        """Positions that a sequence of so many tokens takes: in its window, and for what it keeps besides."""
        window = self.config.attention.window
        state = state_bytes_per_sequence(self.config, self.cache) / self.ranks / self.cache_bytes_per_token
        return (context if window is None else min(context, window)) + state


def listed_replica(
    name: str,
    config: ModelConfig,
    *,
    weights: str = "bfloat16",
    cache: str = "bfloat16",
    chunk_tokens: int = 2048,
    reached: Mapping[Family, Reached] = ASSUMED,
) -> Replica:
    """Of a type by its name in the catalogue, a group as in ``2xA100-80``. Raises GrainlineError with what is wrong."""
    ranks, device = group_of(name)
    listed = catalogue().device(device)
    speed = replace(speed_of(listed.device, link_rate(listed, ranks), reached), name=listed.name)
    label = listed.name if ranks == 1 else f"{ranks}x{listed.name}"
    return Replica(label, speed, ranks, config, weights, cache, chunk_tokens)


def group_of(name: str) -> tuple[int, str]:
    """How many devices, and of which name: ``2xA100-80`` is (2, "A100-80")."""
    from grainline.hardware.shorthand import COUNT

    match = COUNT.match(name)
    ranks, device = (int(match[1]), name[match.end() :]) if match else (1, name)
    if ranks < 1 or ranks & (ranks - 1):
        raise GrainlineError(f"type '{name}': groups are of 1, 2, 4, 8, … devices of a node.")
    return ranks, device
