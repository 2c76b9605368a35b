"""`grainline hardware measure`: measure this machine afresh and write it as a cluster document."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grainline._progress import duration
from grainline.documents import GrainlineError, make_folder, write_atomically

if TYPE_CHECKING:
    from rich.table import Table

    from grainline.hardware.measured import Measured

MIB = 1 << 20


def run(
    *,
    out: Path | None = None,
    name: str = "here",
    quick: bool = False,
    only: tuple[Literal["memory", "matmul", "processes", "disk"], ...] = (),
    elements: int | None = None,
    disk: Path = Path("."),
    plot: Path | None = None,
    json: bool = False,
) -> int:
    """Measure this machine: memory and caches (STREAM), matmuls by size, processes' ways to talk, the disk.

    About a minute. Everything else that runs meanwhile makes the figures smaller, so leave the machine alone; where
    other programs had a part of the cores, it is said.

      grainline hardware measure --out cluster.toml --plot roofline.svg
      grainline hardware measure --only memory --elements 100000000

    Args:
        out: write the machine as a cluster document (.toml or .json)
        name: what the document calls this machine
        quick: seconds instead of a minute: fewer repetitions, no caches, no gloo
        only: these parts alone
        elements: of each of STREAM's three arrays of doubles; default: enough to be past the caches
        disk: a folder on the disk to measure
        plot: draw the roofline of each target (.svg)
        json: print everything as one JSON object, the cluster document in it under "cluster"
    """
    from rich.console import Console

    from grainline.hardware.measure import PARTS, measure

    for option, path, suffixes in (("--out", out, (".toml", ".json")), ("--plot", plot, (".svg",))):
        if path is not None:
            if path.suffix not in suffixes:
                raise GrainlineError(f"{option} {path}: the name must end in {' or '.join(suffixes)}.")
            make_folder(path.parent)
    if elements is not None and elements < 1:
        raise GrainlineError(f"--elements {elements}: must be at least 1.")
    tell = _Teller()
    found = measure(quick=quick, parts=only or PARTS, elements=elements, disk=disk, tell=tell)
    cluster = found.to_cluster(name)
    if json:
        print(json_module.dumps(found.as_dict(name), indent=2))
    else:
        for table in _tables(found):
            Console().print(table)
    for path, text in ((plot, _roofline(found) if plot else ""), (out, "")):
        if path is not None:
            write_atomically(path, text) if text else cluster.save(path)
            Console(stderr=True).print(f"Written to {path}.", highlight=False)
    return 0


class _Teller:
    """Says on standard error what is being measured."""

    def __call__(self, line: str) -> None:
        print(f"measuring {line}", file=sys.stderr, flush=True)


def _roofline(found: Measured) -> str:
    from grainline.hardware.roofline import roofline_svg

    return roofline_svg(found)


def _tables(found: Measured) -> Iterator[Table | str]:
    """What people read, table after table."""
    from grainline.cli.hardware import table

    yield table(found.machine)
    if found.stream:
        yield _grid(
            "\nSTREAM, best GB/s",
            ("target", "copy", "scale", "add", "triad", "how"),
            [
                (s.target, *(f"{r / 1e9:.1f}" for r in s.bytes_per_second.values()), s.how + _cached(s.is_memory))
                for s in found.stream
            ],
        )
    if found.caches:
        one, every = found.cache_rates(1), found.cache_rates()
        yield _grid(
            "\nCaches",
            ("level", "size", "of them", "one core reads", "all cores read"),
            [
                (
                    f"L{c.level} {c.kind}",
                    _size(c.size_bytes),
                    str(c.count),
                    *(_rate(r.get(c.level)) for r in (one, every)),
                )
                for c in found.caches
            ],
        )
    for target, by_dtype in found.matmul.items():
        sizes = sorted({n for by_size in by_dtype.values() for n in by_size})
        yield _grid(
            f"\nMatmuls n×n on {target}, GFLOP/s",
            ("n", *map(str, sizes)),
            [
                (dtype, *(f"{by_size[n] / 1e9:,.3g}" if n in by_size else "" for n in sizes))
                for dtype, by_size in by_dtype.items()
            ],
        )
    ways = [(r.name, f"{r.latency_seconds * 1e6:.1f} µs", f"{r.bytes_per_second / 1e9:.2f}") for r in found.processes]
    for link in found.host_links:
        rates = f"{link.to_device_bytes_per_second / 1e9:.2f} there, {link.from_device_bytes_per_second / 1e9:.2f} back"
        ways.append((f"host and {link.device}", f"{link.latency_seconds * 1e6:.1f} µs", rates))
    if ways:
        yield _grid("\nTwo processes", ("by", "latency", "GB/s"), ways)
    if found.disk is not None:
        d = found.disk
        yield (
            f"\n[bold]Disk[/] of {d.folder}: reads {d.read_bytes_per_second / 1e9:.2f} GB/s ({d.how}), "
            f"writes {d.write_bytes_per_second / 1e9:.2f} GB/s"
        )
    if found.disturbed:
        which = "; ".join(dict.fromkeys(found.disturbed))
        yield f"\n[yellow]disturbed[/]: {which}. Other programs ran on these cores: alone, they are faster."
    for remark in found.remarks:
        yield f"\n[yellow]note[/]: {remark}"
    yield f"\n{duration(found.seconds)}"


def _cached(is_memory: bool) -> str:
    return "" if is_memory else "; in part from caches"


def _rate(bytes_per_second: float | None) -> str:
    return "" if bytes_per_second is None else f"{bytes_per_second / 1e9:,.0f} GB/s"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / MIB:,.3g} MiB" if size_bytes >= MIB else f"{size_bytes / 1024:,.3g} KiB"


def _grid(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, word in enumerate(head):
        made.add_column(word, justify="left" if i == 0 or word == "how" else "right")
    for row in rows:
        made.add_row(*row)
    return made
