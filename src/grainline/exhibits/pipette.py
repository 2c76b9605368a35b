"""Pipette (arXiv 2405.18093): the hidden critical path of 1F1B, and servers put in order by annealing; simulated.

The ablation is on a drawn cluster and no more than that: the paper's ratios over AMP, Varuna and Megatron-LM aren't
published to us, nor are its link matrices, and its learnt memory estimator isn't rebuilt: memory is the planner's
model. Layouts, compute and memory are the planner's; what links cost is counted here, server by server, each card
with a NIC of its own, because the planner's fleets know a node's own NICs but no rate of a pair that cards share.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import permutations

from grainline.documents.cluster import Measured
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import ratio
from grainline.hardware.shorthand import cluster_of
from grainline.plan.layouts.engine import ENGINES
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.problem import Problem
from grainline.plan.layouts.searches.anneal import Order, annealed, message_seconds, nodes_of
from grainline.plan.layouts.searches.frame import Budget
from grainline.plan.layouts.shape import Shape
from grainline.plan.layouts.space import Pins, strategies
from grainline.plan.layouts.step import Estimate, evaluate
from grainline.plan.layouts.strategy import Strategy
from grainline.schedule import Costs, Kind, Network, StageCost, add_messages, lower, make_schedule, simulate
from grainline.schedule.simulator.graph import Link
from grainline.schedule.simulator.network import Route

HOPS, RANKS, MICROBATCHES = (0.05, 0.1, 0.3), (4, 8, 16), (32, 64)  # delays in forwards; b = 2 f
NEVER = 60.0  # seconds: annealing ends by its steps long before
SERVERS, CARDS, NOMINAL, BAD_LINKS, BAD = 16, 8, 25e9, 4, 0.2  # bad links of a fifth of the nominal rate
GPT, BATCH, LENGTH = Shape.gpt(48, 8192, 64, 51_200), 512, 2048  # 39.1B
NARROWED, LISTED = 4, 10  # layouts that are annealed; recommendations of a search
PINS = Pins({"context": 1, "chunks": 1, "schedule": "1f1b", "shard": "none"})
CASES = tuple(  # nodes of two cards each
    Strategy(tensor=2, pipeline=p, data=d, sequences=1) for p, d in ((4, 1), (2, 2), (5, 1), (3, 2), (2, 3), (7, 1))
)

FORMULA = Claim(
    name="pipette.formula",
    text="With the round trip of messages once per p micro-batches, 1F1B is estimated 0.2 to 3.0 % too short.",
    quantity="largest relative error of the formula against 1F1B played with delays, p 4 to 16, m 32 and 64",
    expected=0.03,
    margin=0.0005,
    better="lower",
    baseline="the older formula, which has the round trip once",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
OLDER = Claim(
    name="pipette.gpipe",
    text="The older formula is GPipe's: it is exact there, and 2 to 13 % too short for 1F1B.",
    quantity="largest relative error of the older formula against GPipe played with the same delays",
    expected=0.0,
    margin=1e-9,
    better="lower",
    baseline="the same formula against 1F1B",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
ANNEAL = Claim(
    name="pipette.anneal",
    text="Annealing finds the best order of servers (within 1 % in 95 % of seeds; never below it).",
    quantity=f"share of seeds and {len(CASES)} layouts on 4 to 7 nodes within 1 % of the best of all orders",
    expected=0.95,
    margin=0.0,
    better="higher",
    baseline="all orders",
    seeds=tuple(range(20)),
    how="simulated",
)
PLACEMENT = Claim(
    name="pipette.placement",
    text="Placement gains 1.05 to 1.3 over rank order (an estimate for such links; the paper's ratios aren't known).",
    quantity="played step, best layout by the formula in rank order / annealed, 39.1B on 16 servers of 8 A100",
    expected=1.05,
    margin=0.0,
    better="higher",
    baseline="the layout that is best at nominal rates with the hidden path, in rank order",
    seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    how="simulated",
)


def older(p: int, m: int, both: float, trip: float) -> float:
    """Seconds of m micro-batches over p equal stages, the round trip of messages once (AMP's)."""
    return (m + p - 1) * both + trip


def hidden_path(p: int, m: int, both: float, trip: float) -> float:
    """The same with the round trip m/p times, once at least."""
    return (m + p - 1) * both + max(1.0, m / p) * trip


def played(name: str, p: int, m: int, passes: tuple[float, float], hops: list[float]) -> float:
    """Seconds by events; `hops[s]` is what a message from stage s to s + 1, or back, is on its way."""
    links = [Link(f"{s} → {s + 1}", 1e30) for s in range(p - 1)] + [Link(f"{s + 1} → {s}", 1e30) for s in range(p - 1)]

    def route(source: int, target: int) -> Route:
        at = min(source, target)
        return Route(hops[at], (at if source < target else p - 1 + at,))

    cost = StageCost({Kind.F: passes[0], Kind.B: passes[1]}, output_bytes=1.0)
    actions = add_messages(make_schedule(name, p, m), lookahead=1)
    return simulate(lower(actions, Costs(lambda stage, rank: cost), Network(tuple(links), route))).makespan


@cache
def _errors() -> dict[str, dict[str, float]]:
    """Of both formulas against 1F1B, and of the older against GPipe, by case."""
    found = {}
    for p in RANKS:
        for m in MICROBATCHES:
            for c in HOPS:
                trip = 2 * (p - 1) * c
                one = played("1f1b", p, m, (1.0, 2.0), [c] * (p - 1))
                all_first = played("gpipe", p, m, (1.0, 2.0), [c] * (p - 1))
                found[f"p={p}, m={m}, c={c}"] = {
                    "hidden path": hidden_path(p, m, 3.0, trip) / one - 1,
                    "older": older(p, m, 3.0, trip) / one - 1,
                    "older, GPipe": older(p, m, 3.0, trip) / all_first - 1,
                }
    return found


def measure_formula(scale: Scale) -> Measurement:
    """All cases; both ranges are told."""
    found = _errors()
    for name in ("hidden path", "older"):
        errors = [case[name] for case in found.values()]
        scale.tell(f"{name}: {max(errors):+.1%} to {min(errors):+.1%}")
    with drawing() as (figure, (axes,)):
        for i, name in enumerate(("hidden path", "older")):
            values = [100 * case[name] for case in found.values()]
            axes.plot(values, color=colour(i), marker=MARKERS[i], ls="", label=name)
        axes.set(xlabel="case (p, m, delay)", ylabel="error, %", title="Formulas against 1F1B played event by event")
        axes.legend()
        picture = svg(figure, FORMULA.name, f"Errors of both formulas over all cases. {FORMULA.text}")
    worst = max(abs(case["hidden path"]) for case in found.values())
    return Measurement(worst, (worst, worst), picture, {"errors": found})


def measure_older(scale: Scale) -> Measurement:
    """The same cases."""
    worst = max(abs(case["older, GPipe"]) for case in _errors().values())
    return Measurement(worst, (worst, worst))


def measure_anneal(scale: Scale) -> Measurement:
    """Links of pairs between 2 and 25 GB/s. All orders are asked for once, by both."""
    excess = []
    for seed in scale.seeds:
        for strategy in CASES:
            nodes = strategy.ranks // 2
            cost = _cost(strategy, nodes, seed)
            least = min(cost(order) for order in permutations(range(nodes)))
            order = annealed(cost, nodes, random.Random(seed), Budget(NEVER))
            assert sorted(order) == list(range(nodes))
            excess.append(cost(order) / least - 1)
    share = sum(e <= 0.01 for e in excess) / len(excess)
    scale.tell(f"{len(excess)} cases, worst {max(excess):+.2%}, least {min(excess):+.2%} of the best of all orders")
    if min(excess) < 0:
        share = 0.0
    return Measurement(share, (share, share), None, {"excess": excess})


def _cost(strategy: Strategy, nodes: int, seed: int) -> Callable[[Order], float]:
    known, draw = cluster_of(f"{nodes}x(2xA100-80)@HDR"), random.Random(1000 * seed + nodes)
    names = tuple(name for name, _ in known.every_node())
    rates = tuple(tuple(0.0 if a == b else draw.uniform(2e9, 25e9) for b in names) for a in names)
    seconds = tuple(tuple(0.0 if a == b else 1e-5 for b in names) for a in names)
    measured = Measured(names=names, latency_seconds=seconds, bytes_per_second=rates)
    fleet = Fleet.of(known.model_copy(update={"measured": measured}))
    small = Problem(Shape.gpt(28, 2048, 16, 51_200), fleet, ENGINES["megatron"], 60, LENGTH)
    return cache(message_seconds(small, strategy, fleet, nodes_of(fleet, strategy.ranks)))


Rates = tuple[tuple[float, ...], ...]


def drawn(seed: int) -> Rates:
    """Bytes per second of a card's NIC from server to server: 0.5 to 1 of nominal, and a few bad links."""
    draw = random.Random(seed)
    rates = [[NOMINAL * draw.uniform(0.5, 1.0) for _ in range(SERVERS)] for _ in range(SERVERS)]
    for _ in range(BAD_LINKS):
        a, b = draw.sample(range(SERVERS), 2)
        rates[a][b] = rates[b][a] = BAD * NOMINAL
    return tuple(map(tuple, rates))


@dataclass(frozen=True)
class Layout:
    """A strategy whose stages are whole servers, with what its links carry."""

    estimate: Estimate

    @property
    def strategy(self) -> Strategy:
        """Its sizes."""
        return self.estimate.strategy

    @property
    def each(self) -> int:
        """Servers of a stage."""
        return SERVERS // self.strategy.pipeline

    @property
    def microbatches(self) -> int:
        """Of a pipeline."""
        return self.strategy.microbatches(BATCH)

    @property
    def both(self) -> float:
        """Seconds of a stage's forward and backward, messages inside servers included."""
        parts = self.estimate.seconds
        return (parts.compute + parts.recompute + parts.tensor) / self.microbatches

    def hops(self, order: Order, rates: Rates) -> list[float]:
        """Seconds of a message from each stage to the next; the slowest pipeline's, the slower direction's."""
        k, st = self.each, self.strategy
        count = 2 * st.sequences * LENGTH * GPT.hidden / st.tensor
        pairs = [[(order[s * k + i], order[(s + 1) * k + i]) for i in range(k)] for s in range(st.pipeline - 1)]
        return [count / min(min(rates[a][b], rates[b][a]) for a, b in stage) for stage in pairs]

    def sums(self, order: Order, rates: Rates) -> float:
        """Seconds of the first stage's sum of gradients between servers; each card has its share of them."""
        k, st = self.each, self.strategy
        if k == 1:
            return 0.0
        ring = order[:k]
        slowest = min(rates[a][b] for a, b in zip(ring, ring[1:] + ring[:1], strict=True))
        parameters = GPT.layers / st.pipeline * 12 * GPT.hidden**2 + GPT.vocabulary * GPT.hidden
        return 2 * (k - 1) / k * 4 * parameters / CARDS / slowest

    def seconds(self, order: Order, rates: Rates, *, hidden: bool) -> float:
        """Of a step, in closed form."""
        p, trip = self.strategy.pipeline, 2 * sum(self.hops(order, rates))
        formula = hidden_path if hidden else older
        return formula(p, self.microbatches, self.both, trip) + self.sums(order, rates) + self.estimate.seconds.update

    def real(self, order: Order, rates: Rates) -> float:
        """Of a step, its passes played."""
        share = 1 / 4 if self.strategy.recompute == "full" else 1 / 3
        passes = (share * self.both, (1 - share) * self.both)
        seconds = played("1f1b", self.strategy.pipeline, self.microbatches, passes, self.hops(order, rates))
        return seconds + self.sums(order, rates) + self.estimate.seconds.update


@cache
def layouts() -> tuple[Layout, ...]:
    """All whose stages are whole servers, whether they fit or not."""
    fleet = Fleet.of(cluster_of(f"{SERVERS}x({CARDS}xA100-80)@HDR"))
    problem = Problem(GPT, fleet, ENGINES["megatron"], BATCH, LENGTH)
    wanted = (s for s in strategies(problem, PINS) if s.tensor <= CARDS and SERVERS % s.pipeline == 0)
    return tuple(Layout(evaluate(problem, s)) for s in wanted if s.ranks == SERVERS * CARDS)


def measure_placement(scale: Scale) -> Measurement:
    """Three ways of choosing, all played on the same drawn links."""
    nominal: Rates = ((NOMINAL,) * SERVERS,) * SERVERS
    own: Order = tuple(range(SERVERS))
    fitting = [layout for layout in layouts() if layout.estimate.fits]
    by_old = min(fitting, key=lambda layout: layout.seconds(own, nominal, hidden=False))
    ranked = sorted(fitting, key=lambda layout: layout.seconds(own, nominal, hidden=True))
    blind = sorted(layouts(), key=lambda layout: layout.seconds(own, nominal, hidden=True))[:LISTED]
    lost = sum(not layout.estimate.fits for layout in blind) / LISTED
    scale.tell(f"{len(layouts())} layouts; of a memory-blind search's first {LISTED}, {lost:.0%} don't fit")
    steps: dict[str, list[float]] = {"nominal": [], "hidden path": [], "placement": []}
    for seed in scale.seeds:
        rates = drawn(seed)
        choices = [(ranked[0], own)]
        for i, layout in enumerate(ranked[:NARROWED]):
            cost = _closed(layout, rates)
            choices.append((layout, annealed(cost, SERVERS, random.Random(10 * seed + i), Budget(NEVER))))
        best, order = min(choices, key=lambda choice: choice[0].seconds(choice[1], rates, hidden=True))
        found = by_old.real(own, rates), ranked[0].real(own, rates), best.real(order, rates)
        for name, value in zip(steps, found, strict=True):
            steps[name].append(value)
        said = ", ".join(f"{name} {value:.2f} s" for name, value in zip(steps, found, strict=True))
        scale.tell(f"seed {seed}: {said} ({best.strategy})")
    gain = ratio(steps["hidden path"], steps["placement"])
    with drawing() as (figure, (axes,)):
        for i, (name, values) in enumerate(steps.items()):
            axes.plot(values, color=colour(i), marker=MARKERS[i], ls="", label=name)
        axes.set(xlabel="seed of the links", ylabel="seconds of a step", ylim=(0, None), title="39.1B on 128 A100")
        axes.legend(ncols=3)
        picture = svg(figure, PLACEMENT.name, f"Step times by way of choosing, over drawn links. {PLACEMENT.text}")
    details = {
        "seconds": steps,
        "first choice, older formula": str(by_old.strategy),
        "first choice, hidden path": str(ranked[0].strategy),
        "memory-blind recommendations that don't fit": lost,
        "ablation only": "the paper's ratios aren't published to us",
    }
    return Measurement(gain.value, (gain.low, gain.high), picture, details)


def _closed(layout: Layout, rates: Rates) -> Callable[[Order], float]:
    def cost(order: Order) -> float:
        trips = max(1.0, layout.microbatches / layout.strategy.pipeline)
        return trips * 2 * sum(layout.hops(order, rates)) + layout.sums(order, rates)

    return cost


MEASURES: dict[Claim, Measure] = {
    FORMULA: measure_formula,
    OLDER: measure_older,
    ANNEAL: measure_anneal,
    PLACEMENT: measure_placement,
}
