"""`grainline plan train`: how to spread the training of a model over a cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grainline.cli.arguments import Settings
from grainline.documents import GrainlineError, nearest

if TYPE_CHECKING:
    from grainline.documents import Plan
    from grainline.plan.layouts import Budget, Found, Ranked
    from grainline.plan.layouts.played import Played
    from grainline.plan.layouts.problem import Problem

PLAIN_SECONDS = 5.0  # between lines of progress where there is no terminal


def run(
    model: str,
    /,
    *,
    cluster: str | None = None,
    batch_tokens: str = "4M",
    length: int = 4096,
    engine: str = "megatron",
    dtype: str = "bfloat16",
    objective: Literal["time", "cost", "energy"] = "time",
    search: str = "exhaustive",
    seconds: float = 60.0,
    keep: int = 10,
    pin: Settings = (),
    without: tuple[str, ...] = (),
    stock: Settings = (),
    tokens: str | None = None,
    failure_hours: float | None = None,
    resume: Path | None = None,
    save_plan: Path | None = None,
    json: bool = False,
    html: Path | None = None,
) -> int:
    """Plan a training run before you pay for it: the layouts that fit, the best first, and what binds each.

    Nothing is run. Every layout is evaluated in closed form, time and memory; the best are played event by event. Rates
    come from the cluster and say where they are from; docs/planner.md tells the model of costs. Ctrl-C ends the search
    and ranks what was found.

      grainline plan train Ling-flash-2.0 --cluster "8x(8xH100)@NDR" --tokens 2T --html plan.html
      grainline plan train Qwen3-30B-A3B --cluster "2x(4xA100-80)@HDR + 2x(8xA10G)@25GbE" --objective cost
      grainline plan train model.toml --cluster cluster.toml --pin tensor=8 --search rules --save-plan plan.toml

    Args:
        model: a listed name (grainline plan models), a config (.toml, .json), a folder, or ORG/NAME on the hub
        cluster: a .toml or .json file, or shorthand such as "4xA100-80 + 4xA10G@25GbE"; default: this machine, measured
        batch_tokens: tokens of an optimiser step, such as 512k or 4M: multiples of 2¹⁰ and 2²⁰
        length: tokens of a sequence
        engine: that will run it: megatron, torchtitan or grainline
        dtype: that products are computed in
        objective: what is to be least; cost and energy look at smaller fleets, too
        search: rules (at once), exhaustive, anneal (order of nodes by measured links), nic-aware (stages of one kind)
        seconds: that the search may take; what was found until then is ranked
        keep: layouts told
        pin: one choice of the layout, as in tensor=8, as often as wanted
        without: nodes that may not be used
        stock: devices of a type that there are at most, as in A100-80=16, as often as wanted
        tokens: of the whole run, such as 2T: days, dollars, energy, failures and checkpoints are told
        failure_hours: device hours per failure; default: 50,700, as reported of 16,384 H100s
        resume: a file that an exhaustive search is kept in where it ends early, and goes on from
        save_plan: write the best plan (.toml or .json)
        json: print one JSON object
        html: write a page
    """
    from grainline.cli.tell import tell
    from grainline.cli.train_report import data, report
    from grainline.plan.layouts.played import refine

    problem = problem_of(model, cluster, batch_tokens, length, engine, dtype, without, stock)
    budget, found = _search(problem, search, objective, seconds, keep, pin, resume)
    found.first()  # or say why there is none
    played = refine(problem, found, budget.objective)
    plan = plan_of(problem, played, model, cluster or "", engine)
    if save_plan is not None:
        plan.save(save_plan)
        print(f"The plan is in {save_plan}.", file=sys.stderr)
    whole = None if tokens is None else tokens_of(tokens, "--tokens")
    answer = report(model, problem, found, played, whole, failure_hours)
    tell(answer, data(problem, found, played, whole, failure_hours), json=json, html=html)
    return 0


def problem_of(
    model: str,
    cluster: str | None,
    batch_tokens: str,
    length: int,
    engine: str,
    dtype: str,
    without: tuple[str, ...] = (),
    stock: Sequence[str] = (),
) -> Problem:
    """What the arguments of a verb ask for."""
    from grainline.models.catalogue import config_of
    from grainline.plan.layouts.engine import ENGINES
    from grainline.plan.layouts.fleet import Fleet
    from grainline.plan.layouts.problem import Problem
    from grainline.plan.layouts.shape import Shape
    from grainline.plan.layouts.stock import limited
    from grainline.train.simulate import read_cluster

    if engine not in ENGINES:
        raise GrainlineError(f"--engine {engine}: there is no such engine.{nearest(engine, ENGINES)}")
    if length < 1:
        raise GrainlineError(f"--length {length}: a sequence has 1 token or more.")
    tokens = tokens_of(batch_tokens)
    if tokens < length:
        raise GrainlineError(f"--batch-tokens {batch_tokens}: a batch holds a sequence of {length} at least.")
    shape = Shape.of(config_of(model))
    fleet = Fleet.of(read_cluster(cluster), without=without)
    most = {}
    for each in stock:
        name, _, count = each.partition("=")
        if not count.isdigit():
            raise GrainlineError(f"--stock {each}: write TYPE=COUNT, as in --stock A100-80=16.")
        most[name.strip()] = int(count)
    return Problem(shape, limited(fleet, most) if most else fleet, ENGINES[engine], tokens // length, length, dtype)


def tokens_of(text: str, option: str = "--batch-tokens") -> int:
    """4M → 4 × 2²⁰ of a batch, which are powers of two, and 4,000,000 of a whole run."""
    thousand = 1024 if option == "--batch-tokens" else 1000
    factor = {"k": thousand, "M": thousand**2, "G": thousand**3, "B": thousand**3, "T": thousand**4}.get(text[-1:], 1)
    try:
        number = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        raise GrainlineError(f"{option} {text}: write a number, such as 500k, 4M or 2T.") from None
    if not 1 <= number < 1e18 or number != int(number):
        raise GrainlineError(f"{option} {text}: must be a whole number of tokens, 1 or more.")
    return int(number)


def plan_of(problem: Problem, played: Sequence[Played], model: str, cluster: str, engine: str) -> Plan:
    """The document of the best one, with what is expected of it."""
    from grainline.documents.plan import MadeFor
    from grainline.plan.layouts.planned import cells_of_model, to_plan

    best = played[0]
    estimate, fleet = best.ranked.estimate, best.ranked.fleet
    low, high = best.interval
    made_for = MadeFor(
        model=model,
        cluster=cluster,
        batch_tokens=problem.tokens,
        sequence_length=problem.length,
        dtype=problem.dtype,
        engine=engine,
        step_seconds=best.seconds,
        low_seconds=low,
        high_seconds=high,
    )
    cut = cells_of_model(problem.cells, estimate.cut)
    plan = to_plan(estimate.strategy, problem.batch_sequences, cut, fleet)
    return plan.model_copy(update={"made_for": made_for})


def _search(
    problem: Problem, search: str, objective: str, seconds: float, keep: int, pin: Settings, resume: Path | None
) -> tuple[Budget, Found]:
    from grainline.plan.layouts import SEARCHES, Budget
    from grainline.plan.layouts.objective import OBJECTIVES
    from grainline.plan.layouts.searches import kept
    from grainline.plan.layouts.space import Pins

    if search not in SEARCHES:
        raise GrainlineError(f"--search {search}: there is no such search.{nearest(search, SEARCHES)}")
    if keep < 1 or not seconds > 0:
        raise GrainlineError("--keep must be 1 or more, and --seconds more than 0.")
    if resume is not None and search != "exhaustive":
        raise GrainlineError(f"--resume keeps exhaustive searches, not '{search}'.")
    pins, progress = Pins.of(_pinned(pin)), _Progress()
    budget = Budget(seconds, keep, objective=OBJECTIVES[objective], tell=progress)
    name = kept.name_of(problem, pins, objective)
    if resume is not None and resume.exists():
        budget = kept.load(resume, name, problem, budget)
    found = SEARCHES[search](problem, pins, budget)
    progress.end()
    if found.interrupted:
        print("Interrupted: what was found until then is ranked.", file=sys.stderr)
    if resume is not None:
        if found.complete:
            resume.unlink(missing_ok=True)
        else:
            kept.save(resume, name, problem, found)
            print(f"The search is kept in {resume}; the same command goes on from there.", file=sys.stderr)
    return budget, found


def _pinned(pin: Settings) -> dict[str, object]:
    import tomllib

    chosen: dict[str, object] = {}
    for each in pin:
        name, equals, value = each.partition("=")
        if not equals:
            raise GrainlineError(f"--pin {each}: write NAME=VALUE, as in --pin tensor=8.")
        try:
            chosen[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            chosen[name.strip()] = value.strip()
    return chosen


class _Progress:
    """How many layouts were evaluated, and the best so far, on standard error."""

    def __init__(self) -> None:
        self.told = time.monotonic()

    def __call__(self, evaluated: int, best: Ranked | None) -> None:
        from grainline._words import span

        terminal = sys.stderr.isatty()
        if time.monotonic() - self.told < (0.3 if terminal else PLAIN_SECONDS):
            return
        self.told = time.monotonic()
        found = "none fits yet" if best is None else f"best {span(best.seconds)}"
        line = f"{evaluated:,} layouts, {found}"
        print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the terminal's line as it was."""
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
