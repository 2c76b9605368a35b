"""`grainline plan fleet`: the cheapest mix of device types that serves a traffic within objectives on latency."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grainline.cli.tell import tell
from grainline.documents import GrainlineError, ModelConfig

if TYPE_CHECKING:
    from grainline.documents.traffic import Traffic
    from grainline.plan.fleet.problem import Problem
    from grainline.plan.fleet.profile import Profile
    from grainline.plan.fleet.sensitivity import Sweep


def run(
    model: str,
    /,
    *,
    traffic: Path | None = None,
    types: tuple[str, ...] = (),
    tpot: float | None = None,
    ttft: float | None = None,
    rate: float | None = None,
    weights: Literal["bfloat16", "float8", "int8", "int4"] = "bfloat16",
    cache: Literal["bfloat16", "float8", "int8"] = "bfloat16",
    minimise: Literal["price", "power"] = "price",
    price: tuple[str, ...] = (),
    stock: tuple[str, ...] = (),
    least: tuple[str, ...] = (),
    slices: int = 8,
    ceiling: float = 0.85,
    quantile: float = 0.99,
    mean: bool = False,
    bucket_size: Literal["upper", "mean"] = "upper",
    prefix_hit_rate: float | None = None,
    chunk_tokens: int = 2048,
    ops: Path | None = None,
    profile: Path | None = None,
    force: bool = False,
    requests: int = 2000,
    seed: int = 0,
    sensitivity: bool = False,
    save: Path | None = None,
    json: bool = False,
    html: Path | None = None,
) -> int:
    """Find how many devices of each type to rent for a traffic, and which requests go to which (docs/fleet.md).

    Throughput of every type and size of request comes from a cost model with the catalogue's figures, or from a file of
    measured ones. An integer program chooses; requests are then played against the choice.

      grainline plan fleet Llama-2-7B --traffic chat.toml --types L4 A10G A100-80 H100 --tpot 120 --ttft 2000
      grainline plan fleet Qwen3-235B-A22B --traffic log.csv --types 8xH100 --weights float8 --tpot 50 --price 8xH100=80
      grainline plan fleet my-model --traffic chat.toml --profile measured.toml --tpot 120 --html fleet.html

    Args:
        model: a model config (.toml or .json), a name that grainline plan models lists, a model's folder, or ORG/NAME
        traffic: buckets, published summaries or a list of requests (.toml, .json, .csv, .jsonl)
        types: devices by the catalogue's names, groups with tensor parallelism as in 2xA100-80
        tpot: milliseconds per output token after the first, at most
        ttft: milliseconds from arrival to the first output token, at most
        rate: requests per second; default: the traffic's
        weights: what weights are held in
        cache: what keys and values are held in
        minimise: dollars an hour, or watts
        price: what-if prices, TYPE=DOLLARS an hour of a whole group
        stock: at most so many of a type, TYPE=COUNT
        least: at least so many of a type, TYPE=COUNT: spares
        slices: parts of a bucket that may go to different types
        ceiling: of the load of a type, above 0 and at most 1
        quantile: share of requests that must keep the objectives
        mean: their mean must, as published
        bucket_size: what stands for a bucket, its upper corner or its mean
        prefix_hit_rate: share of prompt tokens found in the cache; default: the traffic's
        chunk_tokens: prompt tokens that a step reads at most
        ops: measured ops (.csv) that calibrate the cost model, see docs/fleet.md
        profile: measured throughputs (.toml or .json) instead of the cost model
        force: use a profile of another model or objective
        requests: so many are simulated; 0: none
        seed: of the simulation
        sensitivity: costs at other rates, objectives and prices; with --html always
        save: write the fleet (.toml or .json): counts, and the shares that a router keeps
        json: print one JSON object
        html: write one page with tables and figures
    """
    from grainline.cli.fleet_report import as_json, report
    from grainline.plan.fleet.choose import FleetPlan, choose, problem_of
    from grainline.plan.fleet.profile import ServingProfile, profiled
    from grainline.plan.fleet.simulate import play
    from grainline.plan.fleet.types import listed_types
    from grainline.plan.serving.measured_ops import read_ops
    from grainline.plan.serving.throughput import Objective

    if traffic is None:
        raise GrainlineError("give --traffic: a file with buckets or requests, as in examples/traffic.")
    if (profile is None) == (not types):
        raise GrainlineError("give --types, whose throughput is estimated, or --profile with measured figures.")
    if requests < 0:
        raise GrainlineError(f"--requests {requests}: can't be negative.")
    wanted = _traffic(traffic, rate, prefix_hit_rate)
    objective = Objective(_seconds(tpot), _seconds(ttft), None if mean else quantile)
    if objective.tpot_seconds is None and objective.ttft_seconds is None:
        raise GrainlineError("give an objective: --tpot or --ttft, in milliseconds.")
    if profile is not None:
        measured = ServingProfile.load(profile)
        found = measured.of(wanted, objective, model, where=profile, force=force)
    else:
        kinds = listed_types(
            types,
            _model(model),
            weights=weights,
            cache=cache,
            chunk_tokens=chunk_tokens,
            measured=None if ops is None else read_ops(ops),
        )
        found = profiled(kinds, wanted, objective, bucket_size)
    problem = problem_of(
        found,
        wanted.requests_per_second,
        minimise=minimise,
        prices=_values("price", price),
        stock=_values("stock", stock),
        least=_values("least", least),
        slices=slices,
        ceiling=ceiling,
    )
    chosen = choose(found, problem)
    played = None
    if requests and all(kind.times is not None for kind in found.types):
        played = play(found, chosen.fleet, requests=requests, seed=seed, hit_rate=wanted.prefix_hit_rate)
    sweeps = _sweeps(found, problem, wanted, bucket_size) if sensitivity or html is not None else []
    plan = FleetPlan.of(chosen, model, wanted.name, minimised=minimise, bucket_size=bucket_size)
    if save is not None:
        plan.save(save)
        print(f"The fleet is in {save}.", file=sys.stderr)
    told = report(model, wanted, chosen, played, sweeps, minimise, draw=html is not None)
    tell(told, as_json(plan, chosen, played, sweeps), json=json, html=html)
    return 0


def _model(name: str) -> ModelConfig:
    from grainline.models.catalogue import config_of

    return config_of(name)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3


def _traffic(path: Path, rate: float | None, hit_rate: float | None) -> Traffic:
    from grainline.documents.traffic import Traffic

    told = [f"{key}={value}" for key, value in (("rate", rate), ("prefix_hit_rate", hit_rate)) if value is not None]
    return Traffic.load(path, told)


def _values(what: str, texts: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise GrainlineError(f"--{what} {text}: write TYPE=NUMBER, as in --{what} A100-80=4.") from None
    return found


def _sweeps(profile: Profile, problem: Problem, traffic: Traffic, bucket_size: Literal["upper", "mean"]) -> list[Sweep]:
    """Over the rate, the objective, and the price of the type that the fleet spends most on."""
    from dataclasses import replace

    from grainline.plan.fleet.profile import profiled
    from grainline.plan.fleet.sensitivity import by_objective, by_price, by_rate
    from grainline.plan.fleet.solve import cheapest

    counts = cheapest(problem).counts
    dearest = max(range(len(counts)), key=lambda g: counts[g] * problem.prices[g])
    found = [by_rate(problem)]
    objective = profile.objective
    key: Literal["tpot_seconds", "ttft_seconds"] = "tpot_seconds" if objective.tpot_seconds else "ttft_seconds"
    if profile.cells is not None:

        def rows(seconds: float) -> dict[str, tuple[float, ...]]:
            changed = replace(objective, **{key: seconds})
            again = profiled(profile.types, traffic, changed, bucket_size)
            return dict(zip(problem.names, again.requests_per_second, strict=True))

        what = "TPOT" if key == "tpot_seconds" else "TTFT"
        found.append(by_objective(problem, rows, getattr(objective, key) or 0.0, what=what))
    found.append(by_price(problem, dearest))
    return found
