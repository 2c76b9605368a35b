"""What `grainline plan train` found, as tables, sentences and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from grainline._canvas import Bars, Canvas, Words
from grainline._figure import COLOURS, Scale
from grainline._report import Report, Section, Table
from grainline._words import count, percent, size, span
from grainline.plan.layouts.bill import Bill
from grainline.plan.layouts.bill import bill as bill_of
from grainline.plan.layouts.estimate import Estimate, Memory, Seconds
from grainline.plan.layouts.objective import busy_share
from grainline.plan.layouts.played import Played
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.searches import Found

PARTS = {
    "compute": "computing",
    "recompute": "computing again",
    "tensor": "tensor parallel messages",
    "context": "context parallel messages",
    "expert": "sending tokens to experts",
    "bubble": "waiting in the pipeline",
    "pipeline": "messages between stages",
    "data": "summing gradients",
    "update": "the optimiser's update",
}
SHADES = ("series-1", "series-2", "series-3", "series-4", "muted", "ink", "muted")


def report(
    model: str, problem: Problem, found: Found, played: Sequence[Played], tokens: float | None, hours: float | None
) -> Report:
    """The answer first, then the ranking, why, time, memory, money, and where the numbers are from."""
    best = played[0]
    estimate = best.ranked.estimate
    low, high = best.interval
    lead = (
        f"{estimate.strategy}: {span(best.seconds)} a step, nine times in ten {span(low)} to {span(high)}; "
        f"{count(problem.tokens / best.seconds)} tokens/s on {estimate.strategy.ranks} of {len(problem.fleet)} devices."
    )
    looked = f"{found.evaluated:,} layouts evaluated, {found.too_large:,} of them too large for memory."
    if not found.complete:
        looked += " Not all were looked at: --seconds allows more, --resume goes on."
    sections = [
        Section("Layouts, the best first", (looked,), _ranking(problem, played)),
        Section("Why", tuple(_why(played))),
        Section("The step", _times(estimate.seconds), svg=_timeline(best)),
        Section("Memory", (_fullest(estimate),), svg=_memory(estimate)),
    ]
    if tokens is not None:
        sections.append(Section(f"The run of {count(tokens)} tokens", _money(run_bill(problem, best, tokens, hours))))
    sections.append(Section("Where the numbers are from", _sources(estimate)))
    return Report(f"Training {model}", lead, tuple(sections))


def run_bill(problem: Problem, played: Played, tokens: float, hours: float | None = None) -> Bill:
    """Of a whole run."""
    estimate, fleet = played.ranked.estimate, played.ranked.fleet
    ranks = estimate.strategy.ranks
    state = problem.shape.parameters * (problem.engine.weight_bytes + problem.engine.optimizer_bytes)
    return bill_of(
        fleet.types[:ranks],
        len(set(fleet.nodes[:ranks])),
        played.seconds,
        busy_share(estimate),
        max(1, round(tokens / problem.tokens)),
        state,
        device_hours_per_failure=hours,
    )


def data(
    problem: Problem, found: Found, played: Sequence[Played], tokens: float | None, hours: float | None
) -> dict[str, Any]:
    """For JSON."""

    def one(p: Played) -> dict[str, Any]:
        e = p.ranked.estimate
        return {
            "strategy": asdict(e.strategy),
            "seconds": p.seconds,
            "interval": p.interval,
            "closed_form_seconds": e.step_seconds,
            "tokens_per_second": problem.tokens / p.seconds,
            "parts": e.seconds._asdict(),
            "binds": e.binds,
            "occupancy": e.occupancy,
            "memory": [m._asdict() for m in e.memory],
            "cut": e.cut,
            "devices": p.ranked.fleet.names(e.strategy.ranks),
            "bill": None if tokens is None else asdict(run_bill(problem, p, tokens, hours)),
        }

    return {
        "evaluated": found.evaluated,
        "too_large": found.too_large,
        "complete": found.complete,
        "sources": dict(played[0].ranked.estimate.sources),
        "ranked": [one(p) for p in played],
    }


def _ranking(problem: Problem, played: Sequence[Played]) -> Table:
    rows = []
    for i, p in enumerate(played, 1):
        e = p.ranked.estimate
        rate = sum(problem.paces[d.name].flops_per_second for d in p.ranked.fleet.types[: e.strategy.ranks])
        used = _flops(problem) / p.seconds / rate
        rows.append(
            (
                str(i),
                str(e.strategy),
                span(p.seconds),
                f"± {percent(p.interval[1] / p.seconds - 1)}",
                count(problem.tokens / p.seconds),
                percent(used),
                percent(e.occupancy),
                e.binds,
            )
        )
    columns = ("", "layout", "step", "9 in 10", "tokens/s", "of peak", "memory", "bound by")
    return Table(columns, tuple(rows), left=("layout", "bound by"), strong=0)


def _flops(problem: Problem) -> float:
    """Of a step's products, nothing computed again."""
    from grainline.models.count import flops_per_token

    assert problem.shape.config is not None
    return problem.tokens * flops_per_token(problem.shape.config, problem.length)


def _why(played: Sequence[Played]) -> list[str]:
    """Where the first saves over the second, and what would have to be faster for it to gain."""
    first = played[0]
    words = [f"What binds the first is {PARTS[first.ranked.estimate.binds]}."]
    if len(played) > 1:
        words.append(difference(first, played[1], "the second"))
    return words


def difference(a: Played, b: Played, name: str) -> str:
    """Of two layouts, part by part, the largest first."""
    one, two = a.ranked.estimate.seconds, b.ranked.estimate.seconds
    gains = {part: t - o for part, o, t in zip(Seconds._fields, one, two, strict=True)}
    told = sorted(gains.items(), key=lambda item: -abs(item[1]))
    words = [
        f"{span(abs(gain))} {'less' if gain > 0 else 'more'} for {PARTS[part]}"
        for part, gain in told
        if abs(gain) >= 0.002 * b.seconds
    ][:4]
    gap = b.seconds / a.seconds - 1
    than = f"The first is {percent(gap)} faster than {name}, {b.ranked.estimate.strategy}"
    if a.interval[1] > b.interval[0]:
        than += ", which lies within what is uncertain"
    return f"{than}: {', '.join(words)}." if words else f"{than}."


def _times(seconds: Seconds) -> tuple[str, ...]:
    whole = seconds.total
    told = sorted(seconds._asdict().items(), key=lambda item: -item[1])
    words = [f"{percent(value / whole)} {PARTS[part]}" for part, value in told if value >= 0.0005 * whole]
    return ("Of the slowest rank's time: " + ", ".join(words) + ".",)


def _timeline(played: Played) -> str:
    from grainline.schedule.views.draw import draw

    return "" if played.timeline is None or played.ranked.estimate.strategy.pipeline == 1 else draw(played.timeline)


def _fullest(estimate: Estimate) -> str:
    rank = max(range(len(estimate.memory)), key=lambda r: estimate.memory[r].total / estimate.capacity[r])
    held = estimate.memory[rank]
    parts = sorted(held._asdict().items(), key=lambda item: -item[1])
    words = ", ".join(f"{name} {size(value)}" for name, value in parts if value >= 1e6)
    where = f"pipeline rank {rank}" if len(estimate.memory) > 1 else "each device"
    return f"The fullest, {where}, holds {size(held.total)} of {size(estimate.capacity[rank])}: {words}."


def _memory(estimate: Estimate) -> str:
    """A bar for each pipeline rank, by category, and its capacity."""
    import numpy as np

    ranks = min(len(estimate.memory), 32)
    width, left, row = 760.0, 64.0, 18.0
    canvas = Canvas(width, 40.0 + ranks * row, COLOURS)
    most = max(*estimate.capacity[:ranks], *(m.total for m in estimate.memory[:ranks]))
    x = Scale(0.0, most, left, width - 90.0)
    at = left
    for name, colour in zip(Memory._fields, SHADES, strict=True):
        canvas.add(Bars(np.array([at]), np.array([9.0]), 4.0, 9.0, colour, ()), Words(at + 13, 13, name, "ink", 10))
        at += 20 + 7.0 * len(name)
    for rank in range(ranks):
        y, begin = 26.0 + rank * row, 0.0
        canvas.add(Words(left - 6, y + 11, f"rank {rank}", "muted", 10, "end"))
        for (name, value), colour in zip(estimate.memory[rank]._asdict().items(), SHADES, strict=True):
            bar = np.array([x(begin)]), np.array([x(begin + value) - x(begin)])
            canvas.add(Bars(*bar, y, row - 4, colour, (f"{name}: {size(value)}",)))
            begin += value
        edge = np.array([x(estimate.capacity[rank]) - 0.6]), np.array([1.6])
        canvas.add(Bars(*edge, y - 1, row - 2, "ink", (f"capacity: {size(estimate.capacity[rank])}",)))
        canvas.add(Words(width - 84, y + 11, f"{size(begin)}", "muted", 10))
    return canvas.svg("Memory of each pipeline rank by category, against its capacity. " + _fullest(estimate))


def _money(bill: Bill) -> tuple[str, ...]:
    cost = "" if bill.dollars is None else f", {bill.dollars:,.0f} dollars"
    energy = "" if bill.joules is None else f", {bill.joules / 3.6e9:,.1f} MWh"
    lost = bill.stretch - 1
    return (
        f"{bill.steps:,} steps in {bill.days:,.1f} days: {bill.device_hours:,.0f} device hours{cost}{energy}.",
        f"Of that, {percent(lost)} is failures and checkpoints: {bill.failures:,.1f} failures are expected, and a "
        f"checkpoint every {bill.save_every_seconds / 60:,.0f} minutes loses least.",
    )


def _sources(estimate: Estimate) -> tuple[str, ...]:
    named = {
        "products": "rates of matrix products",
        "memory": "rates of memory",
        "inside": "links inside nodes",
        "across": "links between nodes",
        "load": "how evenly experts are chosen",
    }
    told = [f"{named.get(key, key)}: {source}" for key, source in estimate.sources]
    spread = sorted(estimate.spread._asdict().items(), key=lambda item: -item[1])[:2]
    least = " and ".join(named.get(key, "what the closed form leaves out") for key, _ in spread)
    return ("; ".join(told) + ".", f"Most of the uncertainty comes from {least}.")
