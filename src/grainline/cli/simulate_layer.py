"""`grainline simulate layer`: one MoE layer tile by tile, and what hides its communication."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grainline.cli.tell import write_timelines
from grainline.documents import GrainlineError, nearest

if TYPE_CHECKING:
    from grainline.schedule.overlap import ExpertLayer, TileDevice

LAUNCH_SECONDS = 6e-6  # assumed, of any device


def run(
    model: str,
    /,
    *,
    overlap: str = "all",
    device: str = "H100",
    ranks: int = 8,
    tokens: int = 2048,
    zipf: float = 0.0,
    tile: tuple[int, int] = (128, 256),
    chunks: int = 2,
    groups: int = 4,
    comm_workers: int = 0,
    launches: int = 4,
    workers: int | None = None,
    link: float | None = None,
    reached: float = 0.75,
    link_reached: float = 0.8,
    draw: Path | None = None,
    trace: Path | None = None,
    json: bool = False,
) -> int:
    """Simulate one rank's part of an MoE layer, tile by tile, under each way to overlap compute and communication.

    Devices' figures are published ones (grainline hardware catalogue), of which a share is reached. What each overlap
    is: docs/overlap.md.

      grainline simulate layer Mixtral-8x7B --ranks 8 --tokens 2048
      grainline simulate layer model.toml --overlap tile --groups 8 --zipf 0.5 --draw layer.svg

    Args:
        model: a listed architecture, a model config (.toml or .json), a model's folder, or ORG/NAME on the hub
        overlap: serial, chunks, tile (COMET) or fused (FlashMoE); or all
        device: as the catalogue calls it
        ranks: that experts are dealt over, evenly
        tokens: of each rank
        zipf: exponent of the experts' shares; 0 is balanced. Rank 0's experts, which get the most, are simulated
        tile: rows and columns of a product's output that one worker computes at a time
        chunks: parts of the chunk pipeline
        groups: of columns that go back together, in tile order
        comm_workers: workers that only send and combine, in tile order
        launches: that the host makes for each chunk
        workers: of the device (SMs); default: known for common devices
        link: bytes per second in each direction; default: the device's own fabric
        reached: share of the device's FLOP/s
        link_reached: share of the link's rate
        draw: write a picture (.svg or .png), of several overlaps on one axis
        trace: write a trace of one overlap for ui.perfetto.dev (.json)
        json: print one JSON object
    """
    from grainline.schedule.overlap import OVERLAPS, Options, TileShape, serial, simulate_tiles, spent

    if overlap not in (*OVERLAPS, "all"):
        raise GrainlineError(f"--overlap {overlap}: there is none.{nearest(overlap, [*OVERLAPS, 'all'])}")
    if trace is not None and overlap == "all":
        raise GrainlineError("--trace is of one overlap: name it with --overlap.")
    rates = _device(device, workers, link, reached, link_reached)
    layer = _layer(model, ranks, tokens, zipf)
    options = Options(TileShape(*tile), chunks, groups, comm_workers, launches)
    names = list(OVERLAPS) if overlap == "all" else [overlap]
    base = serial(layer, options)
    plans = {name: OVERLAPS[name](layer, options) for name in names}
    timelines = [simulate_tiles(plan, rates) for plan in plans.values()]
    found: dict[str, Any] = {}
    for (name, plan), timeline in zip(plans.items(), timelines, strict=True):
        one = spent(plan, base, rates)
        found[name] = {
            "seconds": timeline.makespan,
            "compute_seconds": one.compute_seconds,
            "link_seconds": one.link_seconds,
            "hidden": one.hidden,
            "tasks": len(plan),
        }
    write_timelines(timelines, draw, trace)
    if json:
        print(json_module.dumps(found, indent=2))
    else:
        _print(found)
    return 0


def _device(name: str, workers: int | None, link: float | None, reached: float, link_reached: float) -> TileDevice:
    """Of the catalogue's figures, with what the person says instead."""
    from grainline.hardware.catalogue import catalogue
    from grainline.plan.shapes import UNITS
    from grainline.schedule.overlap import TileDevice

    listed = catalogue().device(name)
    units = workers or UNITS.get(listed.name)
    if units is None:
        raise GrainlineError(f"--device {name}: how many SMs or cores it has isn't known here. Say --workers N.")
    if link is None:
        if not listed.fabric:
            raise GrainlineError(f"--device {name}: it has no fabric of its own. Say --link BYTES_PER_SECOND.")
        link = catalogue().link(listed.fabric).bytes_per_second
    if "bfloat16" not in listed.flops_per_second:
        raise GrainlineError(f"--device {name}: no bfloat16 rate is published; take another device.")
    return TileDevice(
        workers=units,
        flops_per_second=reached * listed.flops_per_second["bfloat16"],
        link_bytes_per_second=link_reached * link,
        memory_bytes_per_second=next((t.bytes_per_second for t in listed.memory if t.bytes_per_second), float("inf")),
        launch_seconds=LAUNCH_SECONDS,
    )


def _layer(model: str, ranks: int, tokens: int, zipf: float) -> ExpertLayer:
    """Rank 0's part, with experts by falling share and the same shares from every rank."""
    from grainline.models.catalogue import config_of
    from grainline.schedule.overlap import ExpertLayer

    config = config_of(model)
    if config.moe is None:
        raise GrainlineError(f"{model}: has no experts to overlap; name a sparse model.")
    experts, top_k = config.moe.experts, config.moe.top_k
    if ranks < 1 or experts % ranks:
        raise GrainlineError(f"--ranks {ranks}: the {experts} experts can't be dealt evenly over them.")
    if tokens < 1:
        raise GrainlineError(f"--tokens {tokens}: a rank has at least one.")
    shares = [(expert + 1.0) ** -zipf for expert in range(experts)]
    rows = tuple(round(tokens * top_k * share / sum(shares)) for share in shares[: experts // ranks])
    return ExpertLayer((rows,) * ranks, config.hidden_size, config.moe.expert_hidden, up_matrices=2)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from grainline._words import percent, span

    first = next(iter(found.values()))
    console = Console(highlight=False)
    console.print(f"Compute alone {span(first['compute_seconds'])}, communication alone {span(first['link_seconds'])}")
    table = Table(box=None, pad_edge=False)
    for title in ("overlap", "layer", "against the first", "communication hidden", "tasks"):
        table.add_column(title, justify="left" if title == "overlap" else "right")
    for name, one in found.items():
        against = f"× {one['seconds'] / first['seconds']:.3f}"
        table.add_row(name, span(one["seconds"]), against, percent(max(0.0, one["hidden"])), f"{one['tasks']:,}")
    console.print(table)
