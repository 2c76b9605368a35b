"""Mélange (arXiv 2404.14527): the cheapest mix of GPU types under an objective on time per output token.

The program is held against the reference repository's toy and against exhaustion; savings and attainment are of
Llama-2-7B on L4, A10G, A100-80 and H100 with throughputs by the serving cost model (data sheets, assumed shares), where
the paper measured vLLM: its ranges of savings are held against ours, its figures aren't expected. Prices are the
repository's for A10G and A100-80 (1.01 and 3.67 $/h); those of L4 and H100 (0.70 and 7.52) aren't confirmed by it. The
paper's histograms aren't published: chat and documents are log-normal around published means (`traffic_presets`).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from grainline._figure import INK
from grainline.documents.traffic import Traffic
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import estimate
from grainline.plan.fleet.choose import problem_of
from grainline.plan.fleet.problem import Problem
from grainline.plan.fleet.profile import Profile, profiled, unserved
from grainline.plan.fleet.simulate import Sizes, play
from grainline.plan.fleet.solve import Fleet, cheapest, rounded_up, single_types, wrong
from grainline.plan.fleet.types import listed_types
from grainline.plan.serving.throughput import Objective

PRICES = {"L4": 0.70, "A10G": 1.01, "A100-80": 3.67, "H100": 7.52}
MIXES: dict[str, tuple[dict[str, object], ...]] = {
    "chat": ({"preset": "chat"},),
    "documents": ({"preset": "documents"},),
    "mixed": ({"preset": "chat", "share": 0.8}, {"preset": "documents", "share": 0.2}),
}
TPOT = (0.12, 0.04)
RATES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
PAPER = {  # least and largest saving against a single type, of abstract and section 6
    ("chat", 0.12): (0.15, 0.77),
    ("documents", 0.12): (0.15, 0.33),
    ("mixed", 0.12): (0.13, 0.51),
    ("chat", 0.04): (0.09, 0.68),
    ("documents", 0.04): (0.02, 0.22),
    ("mixed", 0.04): (0.04, 0.51),
}
CASES = (("chat", 0.12, 16.0), ("chat", 0.12, 1.0), ("documents", 0.12, 16.0), ("mixed", 0.04, 4.0))
SIZES: tuple[Sizes, ...] = ("inside", "upper")
TOY = Problem(
    ("A10G", "A100"),
    (1.01, 3.67),
    tuple(16 * share for share in (0.25, 0.125, 0.375, 0.25)),
    ((5, 1, 10, 5), (20, 2, 50, 20)),
    ceiling=1.0,
)

REPOSITORY = Claim(
    name="melange.toy",
    text="The repository's example: 16 requests a second in 2 × 2 buckets are served by 5 A10G for 5.05 $/h.",
    quantity="$/h of the choice with 1, 2, 4 and 8 slices, the dearest",
    expected=5.05,
    margin=1e-6,
    better="lower",
    baseline="A100 alone: 2 of them, 7.34 $/h",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
OPTIMAL = Claim(
    name="melange.optimal",
    text="The integer program finds the cheapest allocation.",
    quantity="cost of the choice / least cost over all allocations - 1, the largest of random instances",
    expected=0.0,
    margin=1e-6,
    better="lower",
    baseline="exhaustion over all slices and counts: up to 4 buckets, 3 types, 4 slices",
    seeds=(0, 1, 2),
    how="simulated",
    quick_decides=True,
)
SAVINGS = Claim(
    name="melange.savings",
    text="Mixes cost up to 77 % less than a single type (chat, 120 ms), 33 % (documents) and 51 % (both); "
    "up to 68, 22 and 51 % at 40 ms.",
    quantity="of these six largest savings, how many are reached here, over 1 to 32 requests a second",
    expected=6.0,
    margin=0.0,
    better="higher",
    baseline="each single type that can serve all, in the same model of throughput",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
NEVER_DEARER = Claim(
    name="melange.order",
    text="No mix costs more than the best single type.",
    quantity="least saving over all settings, against the best single type; not below 0",
    expected=0.0,
    margin=1e-6,
    better="higher",
    baseline="the best single type at the same setting",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
ATTAINMENT = Claim(
    name="melange.attainment",
    text="At least 99.5 % of requests meet the objective when the allocation is run.",
    quantity="share of requests within the objective on TPOT, the least of four cases; loads up to 0.85",
    expected=0.995,
    margin=0.0,
    better="higher",
    baseline="the same fleets planned and run at loads up to 1",
    seeds=(0, 1, 2, 3, 4),
    how="simulated",
)


@cache
def profile_of(traffic: str, tpot_seconds: float) -> Profile:
    """Throughputs of all types at an objective that 99 % of requests keep, at the buckets' upper corners."""
    from grainline.models.catalogue import models

    types = listed_types(tuple(PRICES), models().get("Llama-2-7B").config)
    document = Traffic.parse({"rate": 1, "mix": MIXES[traffic]})
    found = profiled(types, document, Objective(tpot_seconds))
    assert not unserved(found)
    return found


def problem(traffic: str, tpot_seconds: float, rate: float, ceiling: float = 0.85) -> Problem:
    """Of a setting, at the paper's prices."""
    return problem_of(profile_of(traffic, tpot_seconds), rate, prices=PRICES, ceiling=ceiling)


@dataclass(frozen=True)
class Setting:
    """A choice beside the single types."""

    fleet: Fleet
    alone: tuple[Fleet | None, ...]

    @property
    def savings(self) -> dict[str, float]:
        """Against each type that can serve all alone."""
        return {
            name: 1 - self.fleet.cost / one.cost
            for name, one in zip(self.fleet.problem.names, self.alone, strict=True)
            if one is not None
        }


@cache
def solved(traffic: str, tpot_seconds: float, rate: float) -> Setting:
    """At a ceiling of 0.85."""
    asked = problem(traffic, tpot_seconds, rate)
    fleet = cheapest(asked, seconds=20.0, gap=1e-4)
    assert not wrong(fleet)
    return Setting(fleet, single_types(asked))


def in_words(fleet: Fleet) -> str:
    """``2 A10G + 1 H100``."""
    return " + ".join(f"{n} {name}" for n, name in zip(fleet.counts, fleet.problem.names, strict=True) if n)


def measure_toy(scale: Scale) -> Measurement:
    """All numbers of slices."""
    found = {slices: cheapest(replace(TOY, slices=slices)) for slices in (1, 2, 4, 8)}
    for slices, fleet in found.items():
        scale.tell(f"{slices} slices: {in_words(fleet)}, {fleet.cost:.2f} $/h")
    cost = max(fleet.cost for fleet in found.values())
    alone = [one.cost for one in single_types(TOY) if one is not None]
    details = {"counts": {str(s): fleet.counts for s, fleet in found.items()}, "alone": alone}
    return Measurement(cost, (cost, cost), details=details)


def exhausted(asked: Problem) -> float:
    """The least cost over all ways of sharing slices out."""
    types = range(len(asked.names))
    ways = [
        [
            n
            for n in itertools.product(range(asked.slices + 1), repeat=len(types))
            if sum(n) == asked.slices and all(asked.loads[g][b] is not None or not n[g] for g in types)
        ]
        for b in range(len(asked.rates))
    ]
    best = math.inf
    for choice in itertools.product(*ways):
        loads = [sum(n[g] * (asked.loads[g][b] or 0.0) for b, n in enumerate(choice)) for g in types]
        counts = (rounded_up(load / asked.ceiling) for load in loads)
        best = min(best, sum(count * price for count, price in zip(counts, asked.prices, strict=True)))
    return best


def drawn(draw: random.Random) -> Problem:
    """A random instance: some cells can't be served, every bucket can."""
    buckets, types = draw.randint(1, 4), draw.randint(1, 3)
    rows = [[draw.uniform(0.5, 20) if draw.random() < 0.7 else 0.0 for _ in range(buckets)] for _ in range(types)]
    for b in range(buckets):
        if not any(row[b] for row in rows):
            rows[draw.randrange(types)][b] = draw.uniform(0.5, 20)
    return Problem(
        tuple(f"type {g}" for g in range(types)),
        tuple(draw.uniform(0.5, 8) for _ in range(types)),
        tuple(draw.uniform(0.1, 10) for _ in range(buckets)),
        tuple(map(tuple, rows)),
        draw.randint(1, 4),
        draw.choice((0.85, 1.0)),
    )


def measure_optimal(scale: Scale) -> Measurement:
    """The largest excess."""
    worst, count = 0.0, scale.pick(60, 15)
    for seed in scale.seeds:
        draw = random.Random(seed)
        for _ in range(count):
            asked = drawn(draw)
            worst = max(worst, cheapest(asked, gap=1e-9).cost / exhausted(asked) - 1)
    scale.tell(f"{count * len(scale.seeds)} instances: at most {worst:.1e} above the best")
    return Measurement(worst, (worst, worst), details={"instances": count * len(scale.seeds)})


def measure_savings(scale: Scale) -> Measurement:
    """How many of the paper's six largest savings are reached."""
    table: dict[str, object] = {}
    reached = 0
    for (traffic, tpot), (least, most) in PAPER.items():
        savings = [s for rate in RATES for s in solved(traffic, tpot, rate).savings.values() if s > 1e-9]
        low, high = (min(savings), max(savings)) if savings else (0.0, 0.0)
        reached += high >= most - 0.005  # as printed, in whole per cent
        table[f"{traffic}, {tpot * 1e3:.0f} ms"] = {"here": (low, high), "paper": (least, most)}
        scale.tell(f"{traffic}, {tpot * 1e3:.0f} ms: {low:.0%} to {high:.0%}; paper {least:.0%} to {most:.0%}")
    for traffic, tpot, rate in CASES:
        case = solved(traffic, tpot, rate)
        against = ", ".join(f"-{s:.0%} {name}" for name, s in case.savings.items())
        name = _named(traffic, tpot, rate)
        scale.tell(f"{name}: {in_words(case.fleet)} = {case.fleet.cost:.2f} $/h; {against}")
        table[name] = {
            "fleet": in_words(case.fleet),
            "dollars_per_hour": case.fleet.cost,
            "savings": case.savings,
        }
    return Measurement(float(reached), (float(reached), float(reached)), _figure(), details=table)


def measure_order(scale: Scale) -> Measurement:
    """The least saving against the best single type, and where mixes save most."""
    found: dict[str, float] = {}
    for traffic, tpot in PAPER:
        for rate in RATES:
            savings = solved(traffic, tpot, rate).savings
            if savings:
                found[_named(traffic, tpot, rate)] = min(savings.values())
    best = max(found, key=found.__getitem__)
    scale.tell(f"against the best single type: {min(found.values()):.1%} to {found[best]:.1%} ({best})")
    least = min(found.values())
    return Measurement(least, (least, least), details=found)


def measure_attainment(scale: Scale) -> Measurement:
    """Requests played against the four cases' fleets."""
    requests = scale.pick(4000, 600)
    least, table = [], {}
    for seed in scale.seeds:
        within = {}
        for case in CASES:
            fleets = {"0.85": solved(*case).fleet, "1": cheapest(problem(*case, ceiling=1.0), seconds=20.0, gap=1e-4)}
            within[_named(*case)] = {
                f"loads to {ceiling}, sizes {sizes}": play(
                    profile_of(case[0], case[1]), fleet, requests=requests, seed=seed, sizes=sizes
                ).within
                for ceiling, fleet in fleets.items()
                for sizes in SIZES
            }
        least.append(min(row["loads to 0.85, sizes inside"] for row in within.values()))
        table[str(seed)] = within
        scale.tell(f"seed {seed}: at least {least[-1]:.2%} within")
        for key in next(iter(within.values())):
            scale.tell(f"  {key}: " + ", ".join(f"{row[key]:.2%}" for row in within.values()))
    over = estimate(least)
    return Measurement(over.value, over.error_bar, details=table)


def _named(traffic: str, tpot_seconds: float, rate: float) -> str:
    return f"{traffic}, {tpot_seconds * 1e3:.0f} ms, {rate:g}/s"


def _figure() -> str:
    """Cost of the mix against each single type over the rate, for the three traffics at 120 ms."""
    with drawing(3, width=9.6, height=3.2) as (figure, axes):
        for traffic, ax in zip(MIXES, axes, strict=True):
            settings = [solved(traffic, 0.12, rate) for rate in RATES]
            for g, name in enumerate(PRICES):
                known = [(r, one.cost) for r, s in zip(RATES, settings, strict=True) if (one := s.alone[g]) is not None]
                if known:
                    xs, ys = zip(*known, strict=True)
                    marker = MARKERS[g % len(MARKERS)]
                    ax.plot(xs, ys, color=colour(g), marker=marker, markersize=3, lw=1, label=f"{name} alone")
            ax.plot(RATES, [s.fleet.cost for s in settings], color=INK[0], lw=2.2, label="mix")
            ax.set_xscale("log", base=2)
            ax.set_yscale("log", base=2)
            ax.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
            ax.yaxis.set_major_formatter("{x:g}")
            ax.set_title(f"{traffic}, TPOT 120 ms")
            ax.set_xlabel("requests per second")
        axes[0].set_ylabel("$ per hour")
        axes[0].legend(fontsize=7)
        words = "Cost of the mix and of each single type over the rate, for chat, documents and both."
        return svg(figure, "melange", words)


CLAIMS = (REPOSITORY, OPTIMAL, SAVINGS, NEVER_DEARER, ATTAINMENT)
MEASURES: Mapping[Claim, Measure] = {
    REPOSITORY: measure_toy,
    OPTIMAL: measure_optimal,
    SAVINGS: measure_savings,
    NEVER_DEARER: measure_order,
    ATTAINMENT: measure_attainment,
}
