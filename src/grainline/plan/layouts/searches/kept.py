"""Exhaustive searches that ended early, kept in a file: how far they came, and the best until then."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from grainline.documents import GrainlineError, write_atomically
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.searches.frame import Budget, Found, Ranked, on
from grainline.plan.layouts.space import Pins
from grainline.plan.layouts.step import evaluate
from grainline.plan.layouts.strategy import Strategy


def name_of(problem: Problem, pins: Pins, objective: str) -> str:
    """A hash of all that decides which strategies there are and in which order."""
    wires = problem.fleet.ways.wires.wires
    what = (
        repr(replace(problem.shape, config=None)),
        [device.name for device in problem.fleet.types],
        [(wire.name, wire.bytes_per_second, wire.latency_seconds) for wire in wires],
        problem.fleet.order,
        problem.engine.name,
        (problem.batch_sequences, problem.length, problem.dtype),
        sorted(pins.chosen.items()),
        objective,
    )
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def save(path: Path, name: str, problem: Problem, found: Found) -> None:
    """Whole or not at all."""
    best = [{"order": list(r.fleet.order), "strategy": asdict(r.estimate.strategy)} for r in found.best]
    told = {"search": name, "evaluated": found.evaluated, "too_large": found.too_large, "best": best}
    write_atomically(path, json.dumps(told) + "\n")


def load(path: Path, name: str, problem: Problem, budget: Budget) -> Budget:
    """The budget of a search that goes on. Raises GrainlineError for a file that isn't of this search."""
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if told["search"] != name:
            raise GrainlineError(
                f"--resume {path}: it is of another model, cluster, batch, engine, pin or objective. Name another file."
            )
        known = []
        for each in told["best"]:
            fleet = problem.fleet if tuple(each["order"]) == problem.fleet.order else None
            changed = problem if fleet else on(problem, problem.fleet.reordered(each["order"]))
            known.append(Ranked(evaluate(changed, Strategy(**each["strategy"])), changed.fleet))
        return replace(budget, skip=int(told["evaluated"]), known=tuple(known), too_large=int(told["too_large"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GrainlineError(f"--resume {path}: can't be read as a kept search ({error}). Remove it.") from None
