"""`grainline plan size`: what sizes a cluster's devices and links like, and how a model's shapes suit them."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from rich.table import Table

    from grainline.plan.shapes import ExpertWidth
    from grainline.plan.sizing import Line


def run(
    model: str,
    /,
    *,
    cluster: str | None = None,
    device: str | None = None,
    dtype: str = "bfloat16",
    tokens: int = 8192,
    tile: tuple[int, int] = (256, 256),
    units: int | None = None,
    efficiency: float = 0.9,
    decode_ms: float | None = None,
    times: Path | None = None,
    json: bool = False,
) -> int:
    """Sizing rules: buckets of collectives, alignment, tiles and waves of products, the width of experts.

    Each row says what a rule asks for and why (docs/zaya.md). Figures are the cluster's: measure them with grainline
    hardware measure, or take published ones.

      grainline plan size model.toml --cluster 8xMI300X --decode-ms 5
      grainline plan size runs/x/model --cluster cluster.toml --dtype float32 --tokens 2048
      grainline plan size model.toml --cluster cluster.toml --times allreduce.txt

    Args:
        model: a listed name (grainline plan models), a config (.toml, .json), a folder, or ORG/NAME on the hub
        cluster: a .toml or .json file, or shorthand such as 8xMI300X; default: this machine, measured
        device: type of the cluster's devices; default: its first accelerator, or its first device
        dtype: that products are computed in
        tokens: of a micro-batch on one device
        tile: rows and columns of a product's output that one unit computes at a time
        units: that compute tiles (SMs, CUs); default: known for common devices, or no waves are told
        efficiency: share of a link's rate that a message should reach
        decode_ms: milliseconds that reading the active weights for one decoded token may take; default: no limit
        times: measured messages, a line each with bytes and seconds (of nccl-tests, say), that α and B are fitted to
        json: print one JSON object
    """
    from grainline.hardware.topology import topology
    from grainline.models.catalogue import config_of
    from grainline.plan.shapes import UNITS, Device, dimensions, expert_width, lines, products
    from grainline.plan.sizing import fit, quantised, widest_for_nothing
    from grainline.train.simulate import read_cluster

    if tokens < 1:
        raise GrainlineError(f"--tokens {tokens}: a micro-batch has at least one.")
    config, found = config_of(model), read_cluster(cluster)
    names = [kind.name for kind in found.device_types]
    chosen = device or next((kind.name for kind in found.device_types if kind.kind != "cpu"), names[0])
    if chosen not in names:
        raise GrainlineError(f"--device {chosen}: the cluster's are {', '.join(names)}.")
    units = units or UNITS.get(chosen)
    ways = {f"{a} – {b}": line for line, (a, b) in lines(topology(found)).items()}
    if times is not None:
        ways = {f"fitted to {times}": fit(_samples(times))}
    dims = dimensions(config, tokens)
    width = None
    if config.moe is not None:
        limit = None if decode_ms is None else decode_ms / 1e3
        width = expert_width(config, Device.of(found.device_type(chosen), dtype), tokens, limit)
    shapes = []
    for product in products(config, tokens):
        whole = quantised(product.rows, product.columns, units or 1, tile, product.copies)
        row: dict[str, Any] = {**asdict(product), "tile_efficiency": whole.tile_efficiency}
        if units is not None:
            free = widest_for_nothing(product.rows, product.columns, units, tile, product.copies)
            row |= {"wave_efficiency": whole.wave_efficiency, "waves": whole.waves, "columns_for_nothing": free}
        shapes.append(row)
    if json:
        buckets = [
            {"way": way, **asdict(line), "bucket_bytes": line.bucket_bytes(efficiency)} for way, line in ways.items()
        ]
        aligned = [{**asdict(dim), "advice": dim.advice} for dim in dims]
        told = {"device": chosen, "units": units, "buckets": buckets, "dimensions": aligned, "products": shapes}
        print(json_module.dumps({**told, "experts": None if width is None else asdict(width)}, indent=2))
        return 0
    from rich.console import Console

    console = Console()
    for table in (_buckets(ways, efficiency), _alignment(dims), _products(shapes, tile, units, chosen)):
        console.print(table)
        console.print()
    if width is not None and config.moe is not None:
        print("\n".join(_experts(width, config.moe.expert_hidden, chosen, decode_ms)))
    return 0


def _samples(path: Path) -> list[tuple[float, float]]:
    """Bytes and seconds of each line; what follows # is left out."""
    samples = []
    try:
        text = path.read_text()
    except OSError as error:
        raise GrainlineError(f"{path}: can't be read: {error.strerror}.") from None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            size, seconds = map(float, words)
        except ValueError:
            raise GrainlineError(f"{path}: line {number}: '{line}' isn't two numbers, bytes and seconds.") from None
        samples.append((size, seconds))
    return samples


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, box=None, pad_edge=False, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i in (0, len(columns) - 1) else "right")
    return table


def _buckets(ways: dict[str, Line], efficiency: float) -> Table:
    title = f"Buckets of collectives: the smallest message that reaches {efficiency:.0%} of B, α·B·η / (1 − η)"
    table = _table(title, "between", "α", "B", "bucket", "")
    for way, line in ways.items():
        alpha, rate = f"{line.latency_seconds * 1e6:.3g} µs", f"{line.bytes_per_second / 1e9:.3g} GB/s"
        table.add_row(way, alpha, rate, f"{line.bucket_bytes(efficiency) / 1e6:.3g} MB", "")
    if not ways:
        table.add_row("(one device: nothing is sent)")
    return table


def _alignment(dims: Any) -> Table:
    from grainline.plan.shapes import ALIGNED

    table = _table(
        f"Alignment: matrix units like sides divisible by {ALIGNED}", "size", "value", "divisible by", "advice"
    )
    for dim in dims:
        advice = "" if dim.advice is None else f"{dim.advice:,} would do"
        table.add_row(dim.name, f"{dim.value:,}", str(dim.divisor), advice)
    return table


def _products(shapes: list[dict[str, Any]], tile: tuple[int, int], units: int | None, device: str) -> Table:
    over = f", in waves of {units} ({device})" if units else "; how many units there are isn't known: give --units"
    table = _table(f"Products in tiles of {tile[0]} × {tile[1]}{over}", "product", "shape", "efficiency", "why")
    for row in shapes:
        efficiency, why = row["tile_efficiency"], f"tiles {row['tile_efficiency']:.0%}"
        if units:
            efficiency *= row["wave_efficiency"]
            why += f", {row['waves']} wave{'s' if row['waves'] > 1 else ''} {row['wave_efficiency']:.0%}"
            if row["columns_for_nothing"] > row["columns"]:
                why += f"; {row['columns_for_nothing']:,} columns take no longer"
        copies = f"{row['copies']} × " if row["copies"] > 1 else ""
        shape = f"{copies}{row['rows']:,} × {row['columns']:,} × {row['inner']:,}"
        table.add_row(row["name"], shape, f"{efficiency:.3f}", why)
    return table


def _experts(width: ExpertWidth, hidden: int, device: str, decode_ms: float | None) -> list[str]:
    state = "above" if width.computes else "below"
    lines = [
        f"Experts of F = {hidden:,} with {width.tokens_per_expert:,.0f} tokens each: {width.intensity:.0f} FLOPs per "
        f"byte, {state} the {width.knee:.0f} of {device}'s knee."
    ]
    if not width.computes:
        if width.narrowest is not None:
            lines.append(f"From F = {width.narrowest:,.0f} on they would compute rather than wait for memory.")
        if width.fewest_tokens is not None:
            lines.append(
                f"So would these with {width.fewest_tokens:,.0f} tokens each: a larger micro-batch, or fewer experts."
            )
    if width.widest is not None and decode_ms is not None:
        fits = f"F up to {width.widest:,.0f} keeps" if width.widest > 0 else "No width keeps"
        lines.append(f"{fits} the weights of a decoded token within {decode_ms:g} ms of reading.")
    return lines
