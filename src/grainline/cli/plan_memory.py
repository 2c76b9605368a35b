"""`grainline plan memory`: serving a model from memory tiers: what is paged, what waits, what a token takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from grainline.cli.tell import tell
from grainline.documents import GrainlineError


def run(
    model: str,
    /,
    *,
    cluster: str | None = None,
    batch: int = 8,
    context: int = 4096,
    out: int = 1024,
    dtype: str = "float8",
    cache_dtype: str | None = None,
    lookahead: int = 8,
    routing: Literal["stall", "predicted"] = "stall",
    through: bool = False,
    ideal: bool = False,
    against: str | None = None,
    all_reduce_us: float | None = None,
    json: bool = False,
    html: Path | None = None,
) -> int:
    """Serve a model from small local memories and a pool that devices share: TTFT, TPOT, stalls and bytes.

    Every layer is split over all devices. What isn't kept in local memory is paged in from the pool ahead of its use,
    and all-reduces go through it. A cluster without a pool must hold everything locally. See docs/memory-tiers.md.

      grainline plan memory Qwen3-235B-A22B --cluster examples/clusters/fenghuang.toml --batch 8 --against 8xH200
      grainline plan memory model.toml --cluster rack.toml --lookahead 16 --routing predicted --html rack.html

    Args:
        model: a listed architecture, a model config (.toml or .json), a model's folder, or ORG/NAME on the hub
        cluster: a .toml or .json file (with shared_memory, for a pool), or shorthand such as 8xH200
        batch: sequences at once
        context: tokens of each prompt
        out: tokens of each answer
        dtype: of the weights, and of products
        cache_dtype: of keys and values; default: that of the weights
        lookahead: operators (about five a layer) that paging looks ahead
        routing: experts are fetched once their router has spoken (stall), or as if that were predicted
        through: fetched bytes go straight into compute; default: they cross local memory twice, in and out
        ideal: rates as published; default: the shares of them that the planner takes to be reached
        against: another cluster, to be held against
        all_reduce_us: microseconds of the smallest all-reduce on links, measured; default: latencies of a ring's hops
        json: print one JSON object
        html: write one page with tables and figures
    """
    from grainline.cli.tiers_report import as_json, report
    from grainline.models.catalogue import config_of
    from grainline.plan.tiers.machine import machine_of
    from grainline.plan.tiers.serving import Wanted, serve
    from grainline.train.simulate import read_cluster

    if lookahead < 0:
        raise GrainlineError(f"--lookahead {lookahead}: can't be negative; 0 fetches nothing ahead.")
    if all_reduce_us is not None and not all_reduce_us > 0:
        raise GrainlineError(f"--all-reduce-us {all_reduce_us:g}: must be positive.")
    config = config_of(model)
    wanted = Wanted(batch, context, out, dtype, cache_dtype or dtype, lookahead, routing, not through)
    floor = None if all_reduce_us is None else all_reduce_us * 1e-6
    found = {}
    if cluster is None:
        raise GrainlineError("Name the cluster (--cluster): a file, or shorthand such as 8xH200.")
    for name in (cluster, against):
        if name is not None:
            try:
                machine = machine_of(read_cluster(name), dtype, ideal=ideal, floor_seconds=floor)
                found[_short(name)] = serve(config, machine, wanted)
            except GrainlineError as error:
                text = str(error)
                raise GrainlineError(text if text.startswith(name) else f"{name}: {text}") from None
    first = found[_short(cluster)]
    windows = {}
    if first.machine.pool is not None:
        for ahead in sorted({0, 2, 4, 8, 16, 32, lookahead}):
            try:
                windows[ahead] = serve(config, first.machine, replace(wanted, lookahead=ahead))
            except GrainlineError:  # so many operators at once don't fit
                continue
    told = report(model, found, windows, draw=html is not None)
    tell(told, as_json(found, windows), json=json, html=html)
    return 0


def _short(cluster: str) -> str:
    """A file by its name, shorthand as it is."""
    return Path(cluster).stem if Path(cluster).suffix in (".toml", ".json") else cluster
