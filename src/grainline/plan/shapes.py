"""A model's shapes held against a device: alignment, tiles and waves of its products, and how wide experts may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from grainline.documents import GrainlineError, ModelConfig
from grainline.documents.cluster import DeviceType
from grainline.hardware.topology import Topology
from grainline.models.count import WIDTH, expert_parameters, parameters
from grainline.plan.sizing import Line, largest_power

ALIGNED = 64
"""Dims are best divisible by this, which all matrix units take (arXiv 2401.14489, section 4)."""

UNITS = {
    "MI300X": 304,
    "V100": 80,
    "T4": 40,
    "A10G": 80,
    "A100-40": 108,
    "A100-80": 108,
    "A100-80-PCIe": 108,
    "L4": 58,
    "L40S": 142,
    "H100": 132,
    "H100-PCIe": 114,
    "H200": 132,
    "B200": 148,
}
"""Device type → what computes a tile at a time (CUs, SMs), by the vendors' data sheets."""


@dataclass(frozen=True)
class Dimension:
    """One of a model's sizes."""

    name: str
    value: int
    divisor: int  # the largest power of two that divides it, up to ALIGNED

    @property
    def advice(self) -> int | None:
        """The next larger aligned value, where this isn't one."""
        return None if self.divisor == ALIGNED else math.ceil(self.value / ALIGNED) * ALIGNED


def dimensions(config: ModelConfig, tokens: int) -> tuple[Dimension, ...]:
    """All that products of a model have for sides, with `tokens` in a micro-batch."""
    a, moe = config.attention, config.moe
    found = {"vocab_size": config.vocab_size, "hidden_size": config.hidden_size, "head_dim": a.head_dim}
    if a.kind != "mla":
        found |= {"heads × head_dim": a.heads * a.head_dim, "kv_heads × head_dim": a.key_value_heads * a.head_dim}
    if moe is None or moe.dense_layers:
        found["ffn_hidden"] = config.ffn_hidden
    if moe is not None:
        found["expert_hidden"] = moe.expert_hidden
        if moe.shared_width:
            found["shared experts' hidden"] = moe.shared_width
        found["tokens per expert"] = tokens * moe.top_k // moe.pool
    found["tokens"] = tokens
    return tuple(Dimension(name, value, largest_power(value, ALIGNED)) for name, value in found.items())


@dataclass(frozen=True)
class Product:
    """rows × inner times inner × columns; `copies` of them at once."""

    name: str
    rows: int
    columns: int
    inner: int
    copies: int = 1


def products(config: ModelConfig, tokens: int) -> Iterator[Product]:
    """The large products of a layer and of the head, forward; experts have their average share of the tokens."""
    a, moe, size = config.attention, config.moe, config.hidden_size
    if a.kind != "mla":
        yield Product("q", tokens, a.heads * a.head_dim, size)
        yield Product("k, v", tokens, a.key_value_heads * a.head_dim, size)
        yield Product("o", tokens, size, a.heads * a.head_dim)
    if moe is None or moe.dense_layers:
        yield Product("dense up", tokens, 2 * config.ffn_hidden, size)
        yield Product("dense down", tokens, size, config.ffn_hidden)
    if moe is not None:
        rows, width = max(1, tokens * moe.top_k // moe.pool), moe.latent or size
        yield Product("expert up", rows, 2 * moe.expert_hidden, width, moe.pool)
        yield Product("expert down", rows, width, moe.expert_hidden, moe.pool)
    yield Product("head", tokens, config.vocab_size, size)


@dataclass(frozen=True)
class Device:
    """What shapes are held against."""

    name: str
    flops_per_second: float
    bytes_per_second: float
    width: float  # bytes of a value

    @classmethod
    def of(cls, device: DeviceType, dtype: str) -> Device:
        """A device type of a cluster. Raises GrainlineError where its rate or its memory's isn't told."""
        memory = device.memory[0].bytes_per_second if device.memory else None
        if dtype not in device.flops_per_second or memory is None:
            missing = f"flops_per_second.{dtype}" if memory is not None else "its first memory's bytes_per_second"
            known = ", ".join(device.flops_per_second) or "none"
            raise GrainlineError(
                f"device type '{device.name}': {missing} isn't told (rates are known for: {known}). Add it to the "
                "cluster, or choose another --dtype."
            )
        return cls(device.name, device.flops_per_second[dtype], memory, WIDTH[dtype])

    @property
    def knee(self) -> float:
        """FLOPs per byte from which the device computes rather than waits for memory (Williams et al. 2009)."""
        return self.flops_per_second / self.bytes_per_second


@dataclass(frozen=True)
class ExpertWidth:
    """How wide experts may be: at least so that training computes, at most so that decoding is quick enough."""

    tokens_per_expert: float
    intensity: float  # FLOPs per byte of an expert's first product as it is
    knee: float
    narrowest: float | None  # F; None: with so few tokens no width reaches the knee
    fewest_tokens: float | None  # per expert, that the width as it is needs; None: no number of them is enough
    widest: float | None  # F; None where no time for a token was given

    @property
    def computes(self) -> bool:
        """Whether the product is above the knee."""
        return self.intensity >= self.knee


def expert_width(config: ModelConfig, device: Device, tokens: int, decode_seconds: float | None = None) -> ExpertWidth:
    """The rule for F: the product of [m, D] and [D, 2F], m = T·K/E, has 4·m·D·F FLOPs and moves m·D + 2·D·F + 2·m·F
    values; it should reach the knee. A decoded token reads the active weights once.

    Raises GrainlineError for a model without experts.
    """
    moe = config.moe
    if moe is None:
        raise GrainlineError("this model has no experts whose width could be chosen.")
    D, F, m = moe.latent or config.hidden_size, moe.expert_hidden, tokens * moe.top_k / moe.pool
    w, knee = device.width, device.knee
    # 4mDF ≥ knee·w·(mD + 2DF + 2mF), solved for F and for m.
    over_F, over_m = 4 * m * D - 2 * knee * w * (D + m), 4 * D * F - knee * w * (D + 2 * F)
    active = parameters(config).active - (0 if config.tie_embeddings else parameters(config).embedding)
    sparse = sum(layer < config.layers for layer in config.sparse_layers)
    of_experts = sparse * moe.top_k * moe.ffn_share * expert_parameters(config)
    widest = None
    if decode_seconds is not None:
        widest = (decode_seconds * device.bytes_per_second / w - (active - of_experts)) / (of_experts / F)
    return ExpertWidth(
        tokens_per_expert=m,
        intensity=4 * m * D * F / (w * (m * D + 2 * D * F + 2 * m * F)),
        knee=knee,
        narrowest=knee * w * m * D / over_F if over_F > 0 else None,
        fewest_tokens=2 * knee * w * D * F / over_m if over_m > 0 else None,
        widest=widest,
    )


def lines(topology: Topology) -> dict[Line, tuple[str, str]]:
    """Every kind of way from the first device to another: α is the sum of its wires', B the narrowest one's; and two
    nodes that it joins.
    """
    found: dict[Line, tuple[str, str]] = {}
    first = topology.devices[0]
    for other in topology.devices[1:]:
        if not topology.joined(first.index, other.index):
            continue
        wires = [topology.wires[i] for i in topology.route(first.index, other.index)]
        if wires:
            line = Line(sum(w.latency_seconds for w in wires), min(w.bytes_per_second for w in wires))
            found.setdefault(line, (first.node, other.node))
    return found
