"""`grainline hardware catalogue`: published figures of devices and links, with their sources."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from grainline.documents.cluster import Origin
    from grainline.hardware.catalogue import Catalogue, ListedDevice, ListedLink

SHOWN = ("float32", "tf32", "bfloat16", "float16", "float8", "int8")


def run(name: str | None = None, /, *, json: bool = False) -> int:
    """List devices and links with their published figures; with a name, each of its figures with its source.

    Rates are dense: where a vendor prints them with structured sparsity, half of the print. A link's rate is in one
    direction.

      grainline hardware catalogue A100-80

    Args:
        name: a device or link; its case, spaces and dashes don't matter
        json: print one JSON value: all entries, or the one named
    """
    from rich.console import Console

    from grainline.hardware.catalogue import catalogue

    listed = catalogue()
    if name is not None:
        entry = listed.entry(name)
        if json:
            print(json_module.dumps(tables(entry), indent=2, ensure_ascii=False))
        else:
            Console().print(figures(entry))
        return 0
    if json:
        entries = {key: [tables(entry) for entry in getattr(listed, key)] for key in ("devices", "links")}
        print(json_module.dumps(entries, indent=2, ensure_ascii=False))
    else:
        console = Console()
        console.print(devices(listed))
        console.print(links(listed))
        console.print("grainline hardware catalogue NAME says where each figure comes from.", style="dim")
    return 0


def tables(entry: ListedDevice | ListedLink) -> dict[str, Any]:
    """Plain values, each figure's origin among them."""
    from grainline.hardware.catalogue import LATENCY, ListedDevice

    found = entry.model_dump(mode="json", exclude_none=True)
    if isinstance(entry, ListedDevice):
        return found | entry.device.model_dump(mode="json", exclude_none=True)
    return found | {"origins": {"latency_seconds": LATENCY.model_dump()}}


def devices(listed: Catalogue) -> Table:
    """All devices: rates in TFLOP/s, memory in GB and GB/s."""
    from rich.table import Table

    table = Table(
        title="Devices: dense TFLOP/s by dtype, memory, power, price, and which rates the vendor prints",
        title_justify="left",
        box=None,
    )
    for heading in ("", *SHOWN, "GB", "GB/s", "W", "$/h", "printed", "links"):
        table.add_column(
            heading, justify="left" if heading in ("", "printed", "links") else "right", no_wrap=heading == ""
        )
    for entry in listed.devices:
        device, memory = entry.device, entry.memory[0]
        table.add_row(
            entry.name,
            *(f"{rate / 1e12:.4g}" if (rate := device.flops_per_second.get(dtype)) else "" for dtype in SHOWN),
            f"{memory.capacity_bytes / 1e9:.4g}",
            f"{(memory.bytes_per_second or 0) / 1e9:.4g}",
            f"{entry.power_watts:g}" if entry.power_watts else "",
            f"{entry.price_per_hour:.2f}" if entry.price_per_hour else "",
            entry.printed,
            ", ".join(filter(None, (entry.fabric, entry.slot))),
        )
    return table


def links(listed: Catalogue) -> Table:
    """All links: GB/s in each direction, and latency."""
    from rich.table import Table

    table = Table(title="\nLinks: GB/s in each direction, latency (assumed)", title_justify="left", box=None)
    for heading in ("", "GB/s", "latency", "joins", "source"):
        table.add_column(heading, justify="right" if heading in ("GB/s", "latency") else "left", no_wrap=heading == "")
    joins = {"fabric": "devices of a node", "slot": "a device and its host", "network": "nodes"}
    for entry in listed.links:
        table.add_row(entry.name, _rate(entry.bytes_per_second), _latency(entry), joins[entry.place], entry.reference)
    return table


def figures(entry: ListedDevice | ListedLink) -> Table:
    """One entry: every figure, what kind of source it has, and which."""
    from rich.table import Table

    from grainline.hardware.catalogue import LATENCY, ListedDevice

    table = Table(title=entry.name, title_justify="left", box=None, pad_edge=False)
    for heading in ("figure", "", "source", "reference"):
        table.add_column(heading, overflow="fold")

    def add(figure: str, value: str, origin: Origin) -> None:
        table.add_row(figure, value, origin.source, origin.reference)

    if not isinstance(entry, ListedDevice):
        add("each direction", f"{_rate(entry.bytes_per_second)} GB/s", entry)
        add("latency", _latency(entry), LATENCY)
        return table
    device = entry.device
    for dtype, rate in device.flops_per_second.items():
        add(dtype, f"{rate / 1e12:.5g} TFLOP/s", device.origin(f"flops_per_second.{dtype}"))
    for tier in device.memory:
        add(
            f"{tier.name} size",
            f"{tier.capacity_bytes / 1e9:.4g} GB",
            device.origin(f"memory.{tier.name}.capacity_bytes"),
        )
        rate = tier.bytes_per_second or 0.0
        add(f"{tier.name} rate", f"{rate / 1e9:.5g} GB/s", device.origin(f"memory.{tier.name}.bytes_per_second"))
    if device.power_watts:
        add("power", f"{device.power_watts:g} W", device.origin("power_watts"))
    if device.price_per_hour:
        add("price", f"{device.price_per_hour:.3f} $/h", device.origin("price_per_hour"))
    printed = {
        "dense": "the vendor prints dense rates",
        "sparse": "the vendor prints rates of its matrix units with structured sparsity; these are half of them",
        "none": "the vendor prints no rates",
        "both": "the vendor prints dense rates beside those with structured sparsity",
    }
    table.caption = f"\n{printed[entry.printed]}" + (f"\n{entry.note}" if entry.note else "")
    table.caption_justify = "left"
    return table


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:.4g}"


def _latency(entry: ListedLink) -> str:
    seconds = entry.latency_seconds
    return f"{seconds * 1e3:g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:g} µs"
