"""Cluster: what we run on. Device types with rates and memory, nodes that hold them, links between nodes."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from grainline.documents.base import Document, Part

Source = Literal["measured", "data sheet", "calibrated", "extrapolated", "assumed"]
Positive = Annotated[float, Field(gt=0)]


class MemoryTier(Part):
    """One kind of memory that a device reaches."""

    name: str
    capacity_bytes: PositiveInt
    bytes_per_second: Positive | None = None


class DeviceType(Part):
    """One model of device. Rates are dense (no structured sparsity)."""

    name: str
    kind: Literal["cpu", "gpu", "tpu"]
    flops_per_second: dict[str, Positive] = Field(default={}, description="by dtype, e.g. {bfloat16 = 312e12}")
    memory: tuple[MemoryTier, ...] = Field(default=(), description="nearest first")
    price_per_hour: Positive | None = None
    power_watts: Positive | None = None
    source: Source = "data sheet"
    reference: str = Field("", description="where the figures come from")


class Node(Part):
    """A machine, and the devices in it."""

    name: str
    devices: dict[str, PositiveInt] = Field(description="device type name → how many")
    cores: PositiveInt | None = None
    host_memory_bytes: PositiveInt | None = None
    site: str = ""


class Link(Part):
    """A connection: inside one node (`between` names it alone), or between two."""

    between: tuple[str, ...] = Field(min_length=1, max_length=2)
    latency_seconds: float = Field(ge=0)
    bytes_per_second: Positive
    name: str = ""
    source: Source = "data sheet"


class Cluster(Document):
    """Every device and link that a plan may use."""

    kind: ClassVar[str] = "cluster"

    device_types: tuple[DeviceType, ...] = Field(min_length=1)
    nodes: tuple[Node, ...] = Field(min_length=1)
    links: tuple[Link, ...] = ()

    @model_validator(mode="after")
    def _names_meet(self) -> Self:
        for what, names in (
            ("device_types", [d.name for d in self.device_types]),
            ("nodes", [n.name for n in self.nodes]),
        ):
            for name, count in Counter(names).items():
                if count > 1:
                    raise ValueError(f"{what}: the name '{name}' is given to {count} of them")
        types = {d.name for d in self.device_types}
        nodes = {n.name for n in self.nodes}
        for node in self.nodes:
            for name in node.devices:
                if name not in types:
                    raise ValueError(
                        f"nodes '{node.name}': no device type is named '{name}' (there are {sorted(types)})"
                    )
        for link in self.links:
            for name in link.between:
                if name not in nodes:
                    raise ValueError(
                        f"links {list(link.between)}: no node is named '{name}' (there are {sorted(nodes)})"
                    )
        return self

    def device_type(self, name: str) -> DeviceType:
        """The device type of that name."""
        return next(d for d in self.device_types if d.name == name)
