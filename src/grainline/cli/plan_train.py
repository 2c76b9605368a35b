"""`grainline plan train`: how to spread the training of a model over a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grainline.cli.arguments import Settings
from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from grainline._report import Report
    from grainline.plan.layouts import Found
    from grainline.plan.layouts.problem import Problem


def run(
    model: str,
    /,
    *,
    cluster: str,
    batch_tokens: str = "4M",
    length: int = 4096,
    engine: str = "megatron",
    dtype: str = "bfloat16",
    search: str = "exhaustive",
    seconds: float = 60.0,
    keep: int = 10,
    pin: Settings = (),
    without: tuple[str, ...] = (),
    save_plan: Path | None = None,
    json: bool = False,
    html: Path | None = None,
) -> int:
    """Plan a training run before you pay for it: the layouts that fit, the fastest first, and what binds each.

    Nothing is run. Rates come from the cluster and say where they are from; docs/planner.md tells the model of costs.

      grainline plan train Ling-flash-2.0 --cluster "8x(8xH100)@NDR" --batch-tokens 4M
      grainline plan train model.toml --cluster cluster.toml --pin tensor=8 --pin shard=optimizer --save-plan plan.toml

    Args:
        model: a listed name (grainline plan models), a config (.toml, .json), a folder, or ORG/NAME on the hub
        cluster: a .toml or .json file, or shorthand such as "4xA100-80 + 4xA10G@25GbE"
        batch_tokens: tokens of an optimiser step, such as 500k or 4M (thousands, millions)
        length: tokens of a sequence
        engine: that will run it: megatron, torchtitan or grainline
        dtype: that products are computed in
        search: rules (at once), exhaustive, anneal (order of nodes by measured links), nic-aware (stages of one kind)
        seconds: that the search may take; what was found until then is ranked
        keep: layouts told
        pin: one choice of the layout, as in tensor=8, as often as wanted
        without: nodes that may not be used
        save_plan: write the best plan (.toml or .json)
        json: print one JSON object
        html: write a page
    """
    from grainline.cli.tell import tell
    from grainline.plan.layouts.planned import to_plan

    problem = _problem(model, cluster, batch_tokens, length, engine, dtype, without)
    found = _search(problem, search, seconds, keep, pin)
    best = found.first()
    if save_plan is not None:
        estimate = best.estimate
        to_plan(estimate.strategy, problem.batch_sequences, estimate.cut, best.fleet).save(save_plan)
        print(f"The plan is in {save_plan}.", file=sys.stderr)
    tell(_report(model, problem, found), _data(found), json=json, html=html)
    return 0


def _problem(
    model: str, cluster: str, batch_tokens: str, length: int, engine: str, dtype: str, without: tuple[str, ...]
) -> Problem:
    from grainline.documents import nearest
    from grainline.models.catalogue import config_of
    from grainline.plan.layouts.engine import ENGINES
    from grainline.plan.layouts.fleet import Fleet
    from grainline.plan.layouts.problem import Problem
    from grainline.plan.layouts.shape import Shape
    from grainline.train.simulate import read_cluster

    if engine not in ENGINES:
        raise GrainlineError(f"--engine {engine}: there is no such engine.{nearest(engine, ENGINES)}")
    tokens = tokens_of(batch_tokens)
    if tokens < length:
        raise GrainlineError(f"--batch-tokens {batch_tokens}: a batch holds a sequence of {length} at least.")
    fleet = Fleet.of(read_cluster(cluster), without=without)
    return Problem(Shape.of(config_of(model)), fleet, ENGINES[engine], tokens // length, length, dtype)


def tokens_of(text: str) -> int:
    """4M → 4,000,000."""
    factor = {"k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}.get(text[-1:], 1)
    try:
        number = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        raise GrainlineError(f"--batch-tokens {text}: write a number, such as 500k or 4M.") from None
    if number < 1 or number != int(number):
        raise GrainlineError(f"--batch-tokens {text}: must be a whole number of tokens, 1 or more.")
    return int(number)


def _search(problem: Problem, search: str, seconds: float, keep: int, pin: Settings) -> Found:
    import tomllib

    from grainline.documents import nearest
    from grainline.plan.layouts import SEARCHES, Budget
    from grainline.plan.layouts.space import Pins

    if search not in SEARCHES:
        raise GrainlineError(f"--search {search}: there is no such search.{nearest(search, SEARCHES)}")
    chosen: dict[str, object] = {}
    for each in pin:
        name, equals, value = each.partition("=")
        if not equals:
            raise GrainlineError(f"--pin {each}: write NAME=VALUE, as in --pin tensor=8.")
        try:
            chosen[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            chosen[name.strip()] = value.strip()
    return SEARCHES[search](problem, Pins.of(chosen), Budget(seconds, keep))


def _data(found: Found) -> dict[str, Any]:
    from dataclasses import asdict

    ranked = [
        {
            "strategy": asdict(r.estimate.strategy),
            "seconds": r.estimate.step_seconds,
            "interval": r.estimate.interval,
            "parts": r.estimate.seconds._asdict(),
            "binds": r.estimate.binds,
            "occupancy": r.estimate.occupancy,
            "memory": [m._asdict() for m in r.estimate.memory],
            "cut": r.estimate.cut,
        }
        for r in found.best
    ]
    return {"evaluated": found.evaluated, "too_large": found.too_large, "complete": found.complete, "ranked": ranked}


def _report(model: str, problem: Problem, found: Found) -> Report:
    from grainline._report import Report, Section, Table
    from grainline._words import count, percent, size, span

    best = found.first().estimate
    low, high = best.interval
    rows = tuple(
        (
            str(i),
            str(r.estimate.strategy),
            span(r.estimate.step_seconds),
            count(problem.tokens / r.estimate.step_seconds),
            percent(r.estimate.occupancy),
            r.estimate.binds,
        )
        for i, r in enumerate(found.best, 1)
    )
    table = Table(("", "layout", "step", "tokens/s", "memory", "bound by"), rows, left=("layout", "bound by"), strong=0)
    lead = (
        f"{best.strategy}: {span(best.step_seconds)} a step ({span(low)} to {span(high)}), "
        f"{count(problem.tokens / best.step_seconds)} tokens/s on {best.strategy.ranks} devices."
    )
    looked = f"{found.evaluated:,} layouts evaluated, {found.too_large:,} of them too large for memory."
    if not found.complete:
        looked += " Time ran out before all were looked at: --seconds allows more."
    worst = max(best.memory, key=lambda m: m.total)
    memory = ", ".join(f"{name} {size(value)}" for name, value in worst._asdict().items() if value)
    parts = ", ".join(f"{name} {span(value)}" for name, value in best.seconds._asdict().items() if value)
    return Report(
        f"Training {model}",
        lead,
        (
            Section("Layouts, the fastest first", (looked,), table),
            Section("Of the first", (f"Time: {parts}.", f"Memory of the fullest rank: {memory}.")),
        ),
    )
