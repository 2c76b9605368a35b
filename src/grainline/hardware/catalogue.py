"""The catalogue: published figures of devices and links, each with its source. The data is in catalogue.toml."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from pydantic import Field, PositiveInt

from grainline.documents import Document, GrainlineError, Part
from grainline.documents.cluster import DeviceType, Link, Nic, Origin, Positive

Listed = TypeVar("Listed")

LATENCY = Origin(source="assumed", reference="what a small message takes through common software (NCCL, MPI, TCP)")
FITTED = Origin(source="assumed", reference="a common module in each channel: 32 GB, on desktops 16 GB")


class Computed(Part):
    """A CPU's rates: cores × clock × FLOPs per cycle and core, by dtype."""

    cores: PositiveInt
    hertz: Positive
    per_cycle: dict[str, Positive]

    def flops_per_second(self) -> dict[str, float]:
        """By dtype."""
        return {dtype: self.cores * self.hertz * each for dtype, each in self.per_cycle.items()}


class ListedDevice(DeviceType):
    """A device as the catalogue has it; `device` is what a cluster needs of it."""

    aliases: tuple[str, ...] = ()
    fabric: str = Field("", description="the link between such devices of a node, besides their slots")
    slot: str = Field("", description="the link to the host")
    printed: Literal["dense", "sparse", "both", "none"] = Field(description="which rates the vendor prints")
    printed_sparse: dict[str, Positive] = Field(default={}, description="where it prints no others: twice the dense")
    computed: Computed | None = None
    note: str = ""

    @property
    def device(self) -> DeviceType:
        """The device type, with the origin of figures that the vendor doesn't print."""
        kept = {key: getattr(self, key) for key in DeviceType.model_fields}
        if self.computed is not None:
            clock = f"{self.computed.cores} cores × {self.computed.hertz / 1e9:g} GHz × FLOPs per cycle"
            kept["flops_per_second"] = self.computed.flops_per_second()
            kept["origins"] = {
                "flops_per_second": Origin(source="extrapolated", reference=f"{clock}; {self.reference}"),
                **{f"memory.{tier.name}.capacity_bytes": FITTED for tier in self.memory},
            }
        return DeviceType(**kept)


class ListedLink(Origin):
    """A link as the catalogue has it. Its latency is assumed, see `LATENCY`."""

    name: str
    aliases: tuple[str, ...] = ()
    place: Literal["fabric", "slot", "network"]
    bytes_per_second: Positive = Field(description="in each direction, of one port or line")
    latency_seconds: Positive
    sharing: Literal["port", "pair"] = "port"
    groups_of: PositiveInt | None = None
    per: Literal["device", "node"] = Field("node", description="of a network: a NIC for each device, or for each node")

    def inside(self, node: str, joins: tuple[str, ...]) -> Link:
        """As a link inside a node, on which devices of the types `joins` are."""
        return Link(
            between=(node,),
            latency_seconds=self.latency_seconds,
            bytes_per_second=self.bytes_per_second,
            type=self.name,
            joins=joins,
            groups_of=self.groups_of,
            sharing=self.sharing,
            host=self.place == "slot",
            source=self.source,
            reference=f"{self.reference}; latency assumed",
        )

    def nic(self, count: int) -> Nic:
        """As the NICs of a node. Half of the latency is in each of a message's two."""
        return Nic(
            type=self.name,
            count=count,
            bytes_per_second=self.bytes_per_second,
            latency_seconds=self.latency_seconds / 2,
            source=self.source,
            reference=f"{self.reference}; latency assumed",
        )


class Catalogue(Document):
    """Devices and links by name. Names are met whatever their case, spaces, dashes and dots."""

    kind: ClassVar[str] = "catalogue"

    devices: tuple[ListedDevice, ...]
    links: tuple[ListedLink, ...]

    def device(self, name: str) -> ListedDevice:
        """The device of that name or alias; raises GrainlineError with the nearest."""
        return _found("device", name, {n: d for d in self.devices for n in (d.name, *d.aliases)})

    def link(self, name: str) -> ListedLink:
        """The link of that name or alias; raises GrainlineError with the nearest."""
        return _found("link", name, {n: d for d in self.links for n in (d.name, *d.aliases)})

    def entry(self, name: str) -> ListedDevice | ListedLink:
        """The device or link of that name or alias; raises GrainlineError with the nearest."""
        listed: tuple[ListedDevice | ListedLink, ...] = (*self.devices, *self.links)
        return _found("device or link", name, {n: d for d in listed for n in (d.name, *d.aliases)})


def _found(what: str, name: str, named: Mapping[str, Listed]) -> Listed:
    keys = {plain(known): known for known in named}
    if plain(name) in keys:
        return named[keys[plain(name)]]
    close = difflib.get_close_matches(plain(name), keys, n=1, cutoff=0.55)
    hint = f"Did you mean '{keys[close[0]]}'?" if close else "grainline hardware catalogue lists them."
    raise GrainlineError(f"the catalogue has no {what} '{name}'. {hint}")


def plain(name: str) -> str:
    """A name as it is compared."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def catalogue() -> Catalogue:
    """The catalogue, read once."""
    return Catalogue.load(Path(__file__).with_name("catalogue.toml"))
