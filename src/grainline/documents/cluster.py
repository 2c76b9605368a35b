"""Cluster: what we run on. Device types with rates and memory, nodes that hold them, and what joins all that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from grainline.documents import cluster_checks
from grainline.documents.base import Document, Part

Source = Literal["measured", "data sheet", "calibrated", "extrapolated", "assumed"]
Operation = Literal["read", "write", "accumulate", "notify"]
Positive = Annotated[float, Field(gt=0)]


class Origin(Part):
    """Where a figure comes from."""

    source: Source = "data sheet"
    reference: str = Field("", description="where the figures come from")


class MemoryTier(Part):
    """One kind of memory that a device reaches."""

    name: str
    capacity_bytes: PositiveInt
    bytes_per_second: Positive | None = None


class DeviceType(Origin):
    """One model of device. Rates are dense (no structured sparsity), of matmuls as fast as the device has them."""

    name: str
    kind: Literal["cpu", "gpu", "tpu"]
    flops_per_second: dict[str, Positive] = Field(default={}, description="by dtype, e.g. {bfloat16 = 312e12}")
    memory: tuple[MemoryTier, ...] = Field(default=(), description="nearest first")
    price_per_hour: Positive | None = Field(None, description="US dollars")
    power_watts: Positive | None = None
    origins: dict[str, Origin] = Field(
        default={}, description="of figures that come from elsewhere than the rest, by key: {price_per_hour = {…}}"
    )

    def origin(self, key: str) -> Origin:
        """Where a figure comes from: its own origin, else that of the table it is in, else the device's.

        `key` is as in ``price_per_hour``, ``flops_per_second.bfloat16`` or ``memory.HBM.capacity_bytes``.
        """
        table = key.partition(".")[0]
        rest = Origin(source=self.source, reference=self.reference)
        return self.origins.get(key) or self.origins.get(table) or rest


class Nic(Origin):
    """Network cards of one type in a node."""

    type: str = Field(description="as links name it, e.g. InfiniBand NDR")
    count: PositiveInt = 1
    bytes_per_second: Positive = Field(description="of each, in each direction")
    latency_seconds: NonNegativeFloat = 0.0


class Disk(Origin):
    """A disk, or several as one."""

    name: str
    capacity_bytes: PositiveInt | None = None
    read_bytes_per_second: Positive | None = None
    write_bytes_per_second: Positive | None = None


class Node(Part):
    """A machine and the devices in it; or several alike, which are then named NAME-0, NAME-1, …"""

    name: str
    count: int = Field(1, ge=1, le=65536, description="how many nodes are like this")
    devices: dict[str, PositiveInt] = Field(description="device type name → how many")
    cores: PositiveInt | None = None
    host_memory_bytes: PositiveInt | None = None
    nics: tuple[Nic, ...] = Field(default=(), description="without any, links join the host itself")
    disks: tuple[Disk, ...] = ()
    site: str = ""
    trust_domain: str = Field("", description="who holds it; data that may not leave a domain stays in it")
    forwards: bool = Field(False, description="whether other nodes' traffic passes through it")


class Switch(Origin):
    """Joins the nodes and switches that have a link to it."""

    name: str
    latency_seconds: NonNegativeFloat = 0.0
    bytes_per_second: Positive | None = Field(None, description="all that passes at once; left out: non-blocking")
    site: str = ""


class Link(Origin):
    """A connection: inside one node (`between` names it alone), or between two nodes or switches."""

    between: tuple[str, ...] = Field(min_length=1, max_length=2)
    latency_seconds: NonNegativeFloat
    bytes_per_second: Positive | None = Field(
        None, description="in each direction; left out between nodes: as much as their NICs carry"
    )
    name: str = ""
    type: str = Field("", description="e.g. NVLink 3")
    duplex: Literal["full", "half"] = Field("full", description="half: both directions share the rate")
    nic: str = Field("", description="type of the NICs at its ends; needed where a node has several types")
    joins: tuple[str, ...] = Field(default=(), description="inside a node: device types on it; default: all")
    groups_of: PositiveInt | None = Field(None, description="inside a node: 2 for bridges between pairs; default: all")
    sharing: Literal["port", "pair", "all"] = Field(
        "port",
        description="inside a node, the rate is that of each device's port (NVSwitch, PCIe slots), of each pair's own "
        "line, or of one line that all share, one at a time",
    )
    host: bool = Field(True, description="inside a node: whether host memory and NICs are on it too; never with pair")


class SharedMemory(Origin):
    """A memory that several devices share, each through a port of its own (FengHuang's pool, arXiv 2511.10753).

    With `accumulate` the memory adds what is written to what it holds; `notify` tells readers that a group's writes are
    done. Addresses are striped, so that any device sees all of it.
    """

    name: str
    capacity_bytes: PositiveInt
    bytes_per_second: Positive = Field(description="of each device's port, in each direction")
    duplex: Literal["full", "half"] = Field("full", description="half: reads and writes share a port's rate")
    banks_bytes_per_second: Positive | None = Field(
        None, description="all that passes at once, both directions together; left out: as much as the ports carry"
    )
    nodes: tuple[str, ...] = Field(default=(), description="whose devices have a port; default: all")
    operations: tuple[Operation, ...] = Field(("read", "write"), description="what the memory does by itself")
    latency_seconds: dict[Operation, NonNegativeFloat] = Field(default={}, description="by operation; default: none")


class Measured(Part):
    """Measured between pairs, row by row from the sender to the receiver. 0 bytes per second: not measured.

    The pairs still share the links between them; what was measured is what one pair gets alone.
    """

    names: tuple[str, ...] = Field(min_length=1, description="nodes, or devices as NODE:0, NODE:1, …")
    latency_seconds: tuple[tuple[NonNegativeFloat, ...], ...]
    bytes_per_second: tuple[tuple[NonNegativeFloat, ...], ...]
    reference: str = Field("", description="how and when")


class Cluster(Document):
    """Every device and link that a plan may use."""

    kind: ClassVar[str] = "cluster"

    device_types: tuple[DeviceType, ...] = Field(min_length=1)
    nodes: tuple[Node, ...] = Field(min_length=1)
    switches: tuple[Switch, ...] = ()
    links: tuple[Link, ...] = ()
    shared_memory: tuple[SharedMemory, ...] = ()
    measured: Measured | None = None

    @model_validator(mode="after")
    def _holds(self) -> Self:
        cluster_checks.check(self)
        return self

    def device_type(self, name: str) -> DeviceType:
        """The device type of that name."""
        return next(d for d in self.device_types if d.name == name)

    def every_node(self) -> Iterator[tuple[str, Node]]:
        """Each single node with its name, in order."""
        for node in self.nodes:
            yield from ((name, node) for name in copies(node))

    def named(self, name: str) -> tuple[str, ...]:
        """The single nodes or the switch that an entry of `between` means."""
        return next((copies(node) for node in self.nodes if node.name == name), (name,))

    def joints(self) -> Iterator[tuple[Link, str, str]]:
        """Every single link between two nodes or switches: a link of a node that stands for several is several."""
        for link in self.links:
            if len(link.between) == 2:
                a, b = link.between
                if a == b:  # among the copies of one node
                    names = self.named(a)
                    yield from ((link, x, y) for i, x in enumerate(names) for y in names[i + 1 :])
                else:
                    yield from ((link, x, y) for x in self.named(a) for y in self.named(b))

    def inside(self, node: Node, name: str) -> tuple[Link, ...]:
        """The links inside one node of that name."""
        return tuple(link for link in self.links if link.between in ((node.name,), (name,)))


def copies(node: Node) -> tuple[str, ...]:
    """The names of the single nodes that a node stands for."""
    return (node.name,) if node.count == 1 else tuple(f"{node.name}-{i}" for i in range(node.count))
