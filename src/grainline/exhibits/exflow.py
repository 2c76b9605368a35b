"""ExFlow (arXiv 2401.08383): experts of consecutive layers together, so that tokens stay where they are.

Its traces aren't published; judged are optimality on small cases, synthetic chains, and held-out traces of small models
trained here. The runtime that drops the second all-to-all isn't part of this release: its speed-up is a closed form.
"""

from __future__ import annotations

import numpy as np

from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import estimate
from grainline.exhibits.placement_cases import chain, crossing_share, traces
from grainline.plan.placement import PLACEMENTS, Options, Problem, Statistics, ranks_between
from grainline.plan.placement.affinity import crossing, swept
from grainline.plan.placement.affinity_program import solved
from grainline.plan.placement.ranks import ExpertRanks

SEEDS = (0, 1, 2)
PUBLISHED_MOVES = {4: 17.5, 8: 22.2}
"""Of Mixtral 8x7B's 31 steps, to another rank: the repository's artefact."""

MOVES = Claim(
    name="exflow.moves",
    text="With even routing a token of a 32-layer model moves 31·(1 − 1/G) times: 23.25 with 4 ranks, 27.125 with 8.",
    quantity="largest |moves − 31·(1 − 1/G)| of G 4 and 8",
    expected=0.0,
    margin=1e-9,
    better="lower",
    baseline="the closed form; Mixtral's published 17.5 and 22.2 are 25 % and 18 % below it",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
SWEEPS = Claim(
    name="exflow.sweeps",
    text="Ours: sweeps of exact assignments come within half a point of the integer program's optimum.",
    quantity="share of steps that cross ranks, L 4, E 8, G 2: sweeps − optimum by HiGHS, the largest of the seeds",
    expected=0.0,
    margin=0.005,
    better="lower",
    baseline="ExFlow's integer program, added up over tokens, solved to optimality",
    seeds=tuple(range(5)),
    how="simulated",
    quick_decides=True,
    quick_seeds=tuple(range(5)),
)
CHAINS = Claim(
    name="exflow.chains",
    text="Fewer experts gain more: MoE-64 −40 % of crossings on 4 ranks, −25 % on 32; sparse chains E 8, G 4 −37 %.",
    quantity="steps that cross ranks, L 12, E 8, G 4: placed / contiguous",
    expected=0.63,
    margin=0.04,
    better="lower",
    baseline="contiguous placement on the same synthetic chain; E 16 and E 64, G 8 are told beside it",
    seeds=SEEDS,
    how="simulated",
    quick_decides=True,
    quick_seeds=SEEDS,
)
TRAINED = Claim(
    name="exflow.trained",
    text="Routers that were trained have affinity: Mixtral on 4 ranks moves 17.5 times instead of 23.25 (×0.75).",
    quantity="steps that cross ranks, held-out tokens of small trained models (E 8, top-1), G 4: placed / contiguous",
    expected=0.75,
    margin=0.05,
    better="lower",
    baseline="contiguous placement on the same held-out half of the trace; the other half decided",
    seeds=SEEDS,
    how="real",
)
NODES = Claim(
    name="exflow.nodes",
    text="A token is about twice as likely to stay in its node.",
    quantity="steps that stay in a node, L 12, E 64, two nodes of four ranks, staged: placed / contiguous",
    expected=1.2,  # of two nodes half of the steps stay by chance, so that twice as many would be all
    margin=0.1,
    better="higher",
    baseline="contiguous placement on the same synthetic chain; four nodes are told beside it",
    seeds=SEEDS,
    how="simulated",
    quick_decides=True,
    quick_seeds=SEEDS,
)
THROUGHPUT = Claim(
    name="exflow.throughput",
    text="Ablation only, inputs aren't published: 2.2 × throughput with 16 experts on 8 GPUs in two nodes of four.",
    quantity="largest ratio of volumes, L 12, E 16, G 8: 2·L·q of dispatch and combine / L·q* of the coherent runtime",
    expected=2.2,
    margin=0.4,
    better="higher",
    baseline="dispatch and combine with random placement, when messages are all that a step takes: a ceiling",
    seeds=SEEDS,
    how="simulated",
    quick_decides=True,
    quick_seeds=SEEDS,
)


def alike(ranks: int, nodes: int = 1) -> ExpertRanks:
    """Ranks of so many nodes, with one rate for all."""
    return ranks_between((np.arange(ranks) * nodes // ranks).tolist(), np.ones((ranks, ranks)))


def measure_moves(scale: Scale) -> Measurement:
    """By the evaluator that judges all placements."""
    moves = {}
    for ranks in PUBLISHED_MOVES:
        even = Statistics(np.full((32, 8), 1 / 8), np.full((31, 8, 8), 1 / 64), tuple(range(32)), 10**6)
        placement = PLACEMENTS["contiguous"](Problem(even, alike(ranks)))
        moves[ranks] = crossing(even, placement.rank_BE)
    off = max(abs(found - 31 * (1 - 1 / ranks)) for ranks, found in moves.items())
    published = {ranks: told / moves[ranks] - 1 for ranks, told in PUBLISHED_MOVES.items()}
    return Measurement(off, (off, off), None, {"moves": moves, "Mixtral's, against these": published})


def measure_sweeps(scale: Scale) -> Measurement:
    """Both on the same chains."""
    rows = {}
    for seed in scale.seeds:
        statistics = chain(4, 8, seed)
        found, bound = solved(statistics, 2, 60.0, 1e-6)
        steps = statistics.layers - 1
        rows[seed] = [crossing(statistics, each) / steps for each in (swept(statistics, 2), found)] + [bound / steps]
    worst = max(0.0, *(sweeps - optimum for sweeps, optimum, _ in rows.values()))
    return Measurement(worst, (worst, worst), None, {"sweeps, program, bound": rows})


def measure_chains(scale: Scale) -> Measurement:
    """Three shapes."""
    found = {
        f"E {experts}, G {ranks}": [_reduced(chain(12, experts, seed), alike(ranks)) for seed in scale.seeds]
        for experts, ranks in ((8, 4), (16, 4), (64, 8))
    }
    over = estimate(found["E 8, G 4"])
    return Measurement(over.value, over.error_bar, _points(CHAINS, found), {"placed / contiguous": found})


def _reduced(statistics: Statistics, ranks: ExpertRanks, test: Statistics | None = None) -> float:
    problem, judged = Problem(statistics, ranks), test or statistics
    shares = [crossing_share(judged, PLACEMENTS[method](problem)) for method in ("affinity", "contiguous")]
    return shares[0] / shares[1]


def measure_trained(scale: Scale) -> Measurement:
    """Decided by every other sequence, judged by the rest."""
    found: dict[str, list[float]] = {"G 2": [], "G 4": [], "G 4, on its own tokens": []}
    for trace in traces("exflow", 1, scale):
        decide, test = (Statistics.of(half) for half in trace.halves())
        found["G 2"].append(_reduced(decide, alike(2), test))
        found["G 4"].append(_reduced(decide, alike(4), test))
        found["G 4, on its own tokens"].append(_reduced(decide, alike(4)))
        scale.tell(", ".join(f"{name}: {values[-1]:.3f}" for name, values in found.items()))
    over = estimate(found["G 4"])
    return Measurement(over.value, over.error_bar, _points(TRAINED, found), {"placed / contiguous": found})


def measure_nodes(scale: Scale) -> Measurement:
    """Two nodes of four ranks; four of two beside them."""
    found: dict[str, list[float]] = {}
    for nodes in (2, 4):
        ranks = alike(8, nodes)
        for seed in scale.seeds:
            problem = Problem(chain(12, 64, seed), ranks, Options(restarts=4))
            stays = [1 - _between_nodes(problem, method) for method in ("affinity", "contiguous")]
            found.setdefault(f"{nodes} nodes", []).append(stays[0] / stays[1])
    over = estimate(found["2 nodes"])
    return Measurement(over.value, over.error_bar, _points(NODES, found), {"placed / contiguous": found})


def _between_nodes(problem: Problem, method: str) -> float:
    placement = PLACEMENTS[method](problem)
    node_BE = np.array(problem.ranks.node_G)[placement.rank_BE]
    return crossing(problem.statistics, node_BE) / (problem.statistics.layers - 1)


def measure_throughput(scale: Scale) -> Measurement:
    """q of random placement, q* of affinity; gathering contexts is left out, as the published formula has it apart."""
    found = {}
    for experts, ranks in ((8, 8), (16, 8), (32, 8), (64, 8)):
        ratios = []
        for seed in scale.seeds:
            problem = Problem(chain(12, experts, seed), alike(ranks, 2), Options(restarts=4))
            placed = crossing_share(problem.statistics, PLACEMENTS["affinity"](problem))
            ratios.append(2 * (1 - 1 / ranks) / placed)
        found[f"E {experts}, G {ranks}"] = ratios
    over = estimate(found["E 16, G 8"])
    return Measurement(over.value, over.error_bar, _points(THROUGHPUT, found), {"ratios of volumes": found})


def _points(claim: Claim, rows: dict[str, list[float]]) -> str:
    with drawing(height=2.6) as (figure, (axes,)):
        for i, values in enumerate(rows.values()):
            axes.plot([i] * len(values), values, color=colour(i), marker=MARKERS[i % 4], ls="")
        axes.set_xticks(range(len(rows)), list(rows))
        axes.margins(x=0.2)
        axes.set(ylabel="ratio", title="Each seed")
        return svg(figure, claim.name, f"{claim.quantity}.")


MEASURES: dict[Claim, Measure] = {
    MOVES: measure_moves,
    SWEEPS: measure_sweeps,
    CHAINS: measure_chains,
    TRAINED: measure_trained,
    NODES: measure_nodes,
    THROUGHPUT: measure_throughput,
}
