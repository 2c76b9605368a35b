"""Holmes (arXiv 2312.03549): groups of one kind of NIC, stages cut by speed, simulated in closed form.

Groups and cuts are the planner's own. The hybrid rows are the closed form of a pipeline with gradients summed after it;
compute, RoCE and Ethernet are calibrated on the three homogeneous rows of as many nodes, and on nothing else. Not
published to us: batch, micro-batch and split (assumed: 768, 4, t = 1, p = 2), and the hybrid rows of 3.6B parameters.
In this form mixed groups give the Ethernet row and groups by NIC the RoCE row exactly: the slowest sum decides, and
nothing else differs. The ratio was first declared one-sided; a first run overshot it by a third, so it is now held to
from both sides. Real runs on unlike NICs aren't reproduced here, and of the overlapped optimiser an ideal alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from grainline.exhibits.figure import colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.hardware.shorthand import cluster_of
from grainline.plan.closed_forms import Gpt
from grainline.plan.layouts.fleet import Fleet
from grainline.plan.layouts.partition import even, partition
from grainline.plan.layouts.searches.nic_aware import pure
from grainline.plan.layouts.strategy import Strategy

PER_NODE, STAGES, BATCH, SEQUENCES = 8, 2, 768, 4  # GPUs; the rest is assumed
IB_BYTES = 4 * 25e9  # of a node each second: four HDR adapters, as in the repository's configuration
GRADIENT_BYTES = 4  # of a parameter, in float32
TERA = 1e12
SMALL, LARGE = Gpt(30, 3072), Gpt(36, 4096)  # 3.6B and 7.5B
ROWS = {4: (197.0, 160.0, 122.0), 8: (148.0, 145.0, 83.0)}  # TFLOP/s per GPU: InfiniBand, RoCE, Ethernet
CHART = {"naive": 135.0, "overlapped": 185.0}  # 7.5B, 4 + 4 nodes: Megatron-LM and Holmes, read by eye, ± 5
GPT_EXAMPLE = 48  # layers of the repository's example: 26 on InfiniBand, 22 on RoCE

GROUPS = Claim(
    name="holmes.groups",
    text="Groups that send much have NICs of one type wherever the devices' numbers allow (section 3).",
    quantity="clusters with a rank not in one group of each kind, or a mixed group that the numbers don't require",
    expected=0,
    margin=0,
    better="lower",
    baseline="groups from ranks' numbers, kinds from the clusters' descriptions",
    seeds=tuple(range(100)),
    how="simulated",
    quick_seeds=tuple(range(20)),
    quick_decides=True,
)
CUT = Claim(
    name="holmes.cut",
    text="Stages get layers by speed; the slowest is as fast as can be, and no slower than with equal stages.",
    quantity="slowest stage / the least of all cuts, the worst of random cases with up to six stages",
    expected=1.0,
    margin=1e-3,
    better="lower",
    baseline="all cuts, and equal stages",
    seeds=tuple(range(200)),
    how="simulated",
    quick_seeds=tuple(range(30)),
    quick_decides=True,
)
HYBRID = Claim(
    name="holmes.hybrid",
    text="On half InfiniBand, half RoCE, training is nearly as fast as on the slower of both, far above Ethernet "
    "(by construction here: the closed form is of the slowest sum, and knows nothing that would add to it).",
    quantity="throughput with groups by NIC / the homogeneous RoCE row, 3.6B, the less of 4 and 8 nodes",
    expected=0.85,
    margin=0.0,
    better="higher",
    baseline="published homogeneous rows; groups of mixed NICs, which talk by Ethernet",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
UNEVEN = Claim(
    name="holmes.uneven",
    text="Cutting stages by measured speed gains 3 to 8 % over equal stages (an estimate, not the paper's figure).",
    quantity="throughput with layers by speed / with equal stages, 3.6B on 2 + 2 nodes, groups by NIC in both",
    expected=1.03,
    margin=0.0,
    better="higher",
    baseline="equal stages",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
RATIO = Claim(
    name="holmes.ratio",
    text="GPT-7.5B on 4 + 4 nodes: about 1.37 times Megatron-LM (185 and 135 TFLOP/s, a chart read by eye).",
    quantity="relative distance of (groups by NIC, sums hidden) / (mixed groups) from 185 / 135, in throughput",
    expected=0.0,
    margin=0.1,
    better="lower",
    baseline="mixed groups over Ethernet, nothing hidden",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)


def holmes_cut(layers: int, speeds: Sequence[float], alpha: float = 1.0) -> tuple[int, ...]:
    """The paper's: floor(α · N · Sᵢ / ΣS) for each but the slowest, which gets the rest; a stage for each speed."""
    shares = [int(alpha * layers * speed / sum(speeds)) for speed in speeds]
    slowest = min(range(len(speeds)), key=lambda i: speeds[i])
    shares[slowest] += layers - sum(shares)
    return tuple(shares)


@dataclass(frozen=True)
class Site:
    """What was calibrated for a number of nodes: FLOP/s of a GPU that computes, and bytes per second of a node."""

    nodes: int
    flops: float
    networks: tuple[float, float, float]  # InfiniBand, RoCE, Ethernet

    def step(self, gpt: Gpt, layers: Sequence[int], links: Sequence[float], *, hidden: bool = False) -> float:
        """Seconds: (m + p − 1) times the slowest stage, and the longest sum of gradients by a ring at `links`' rates.

        `hidden`: beside the last micro-batch's backward, two thirds of its time.
        """
        data = self.nodes * PER_NODE // STAGES
        m = BATCH // (data * SEQUENCES)
        rounds = m + STAGES - 1
        each = [gpt.flops(SEQUENCES, recompute=False) / self.flops * n / gpt.layers for n in layers]
        sums = [
            2 * (data - 1) / data * GRADIENT_BYTES * gpt.parameters * n / gpt.layers / rate
            for n, rate in zip(layers, links, strict=True)
        ]
        left = [max(0.0, s - 2 / 3 * e) if hidden else s for s, e in zip(sums, each, strict=True)]
        return rounds * max(each) + max(left)

    def rate(self, gpt: Gpt, layers: Sequence[int], links: Sequence[float], *, hidden: bool = False) -> float:
        """TFLOP/s per GPU."""
        seconds = self.step(gpt, layers, links, hidden=hidden)
        return gpt.flops(BATCH, recompute=False) / (self.nodes * PER_NODE * seconds) / TERA


def calibrated(nodes: int) -> Site:
    """Compute from the InfiniBand row, then the rates of RoCE and Ethernet from theirs. In closed form by bisection."""
    layers = even_layers(SMALL)

    def at(flops: float, network: float) -> float:
        return Site(nodes, flops, (IB_BYTES,) * 3).rate(SMALL, layers, (network, network))

    flops = _solve(lambda x: at(x, IB_BYTES), ROWS[nodes][0], 1e13, 1e15)
    slower = [_solve(lambda x: at(flops, x), row, 1e8, IB_BYTES) for row in ROWS[nodes][1:]]
    return Site(nodes, flops, (IB_BYTES, slower[0], slower[1]))


def _solve(found: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if found(middle) < wanted else (low, middle)
    return (low * high) ** 0.5


def even_layers(gpt: Gpt) -> tuple[int, ...]:
    """Of each stage."""
    return (gpt.layers // STAGES,) * STAGES


def hybrid(site: Site, gpt: Gpt) -> dict[str, float]:
    """TFLOP/s per GPU on half InfiniBand, half RoCE: in four ways, and with the best cut there is."""
    ib, roce, ethernet = site.networks
    level = even_layers(gpt)
    by_speed = holmes_cut(gpt.layers, ROWS[site.nodes][:2])
    pure_links = (ib, roce)
    return {
        "naive": site.rate(gpt, level, (ethernet, ethernet)),
        "nic-aware": site.rate(gpt, level, pure_links),
        "uneven": site.rate(gpt, by_speed, pure_links),
        "best cut": max(site.rate(gpt, (n, gpt.layers - n), pure_links) for n in range(1, gpt.layers)),
        "overlapped": site.rate(gpt, level, pure_links, hidden=True),
    }


def measure_groups(scale: Scale) -> Measurement:
    """Of each cluster, all widths that divide its devices."""
    bad = layouts = 0
    for seed in scale.seeds:
        draw = random.Random(seed)
        kinds = draw.sample(["HDR", "RoCE-200", "25GbE"], draw.randint(2, 3))
        cards, nodes = draw.choice([2, 4]), [draw.randint(1, 4) for _ in kinds]
        shorthand = " + ".join(f"{n}x({cards}xA100-80)@{kind}" for n, kind in zip(nodes, kinds, strict=True))
        fleet = Fleet.of(cluster_of(shorthand))
        of_node = [kind for n, kind in zip(nodes, kinds, strict=True) for _ in range(n)]
        nic = [of_node[fleet.node_of(rank)] for rank in range(len(fleet))]
        for data in range(1, len(fleet) // 2 + 1):
            width = 2 * data
            if len(fleet) % width:
                continue
            layouts += 1
            strategy = Strategy(tensor=2, data=data, pipeline=len(fleet) // width)
            bad += not _sound(fleet, strategy, nic)
    scale.tell(f"{layouts} layouts of {len(scale.seeds)} clusters, {bad} unsound")
    return Measurement(bad, (bad, bad), None, {"layouts": layouts})


def _sound(fleet: Fleet, st: Strategy, nic: Sequence[str]) -> bool:
    """Each rank once in each kind of group, and the planner calls a layout pure if and only if numbers allow it."""
    stages = [range(start, start + st.width) for start in range(0, st.ranks, st.width)]
    tensor = [[s[i + j] for j in range(st.tensor)] for s in stages for i in range(0, st.width, st.tensor)]
    data = [list(s[i :: st.tensor]) for s in stages for i in range(st.tensor)]
    once = all(sorted(r for g in groups for r in g) == list(range(st.ranks)) for groups in (tensor, data))
    unmixed = all(len({nic[r] for r in group}) == 1 for group in (*tensor, *data))
    allowed = all(count % st.width == 0 for count in Counter(nic).values())
    return once and unmixed == allowed == pure(fleet, st)


def measure_cut(scale: Scale) -> Measurement:
    """Layers whose times differ, on two kinds of device."""
    worst, gains = 1.0, []
    for seed in scale.seeds:
        draw = random.Random(seed)
        stages, layers = draw.randint(2, 6), draw.randint(8, 14)
        own = [draw.uniform(0.8, 1.2) for _ in range(layers)]
        slower = draw.uniform(1.0, 2.0)
        seconds = [own, [slower * second for second in own]]
        kinds = [draw.randint(0, 1) for _ in range(stages)]

        def slowest(cut: Sequence[int], kinds: list[int] = kinds, seconds: list[list[float]] = seconds) -> float:
            ends = [sum(cut[:i]) for i in range(len(cut) + 1)]
            return max(sum(seconds[kind][a:b]) for kind, (a, b) in zip(kinds, pairwise(ends), strict=True))

        found = partition(seconds, kinds)
        assert found is not None and sum(found) == layers
        cuts = [(0, *c, layers) for c in combinations(range(1, layers), stages - 1)]
        least = min(slowest([b - a for a, b in pairwise(c)]) for c in cuts)
        level = slowest(even(layers, stages))
        worst = max(worst, slowest(found) / least)
        gains.append(level / slowest(found))
    example = holmes_cut(GPT_EXAMPLE, ROWS[4][:2])
    exact = partition([[1 / speed] * GPT_EXAMPLE for speed in ROWS[4][:2]], [0, 1])
    scale.tell(f"48 layers at 197 and 160: {example} by the paper's floor, {exact} by the planner's cut")
    scale.tell(f"equal stages are up to {max(gains):.2f}, at least {min(gains):.3f} times as slow")
    details = {"by floor": example, "by partition": exact, "least gain": min(gains), "largest gain": max(gains)}
    return Measurement(worst, (worst, worst), None, details)


def measure_hybrid(scale: Scale) -> Measurement:
    """Both numbers of nodes; each row with its deviation from the row that it is held against."""
    rows, shares = {}, []
    for nodes, (_, roce, ethernet) in ROWS.items():
        found = hybrid(calibrated(nodes), SMALL)
        rows[nodes] = found
        shares.append(found["nic-aware"] / roce)
        for name, value in found.items():
            against = f"{value / roce - 1:+.1%} of RoCE's {roce:g}, {value / ethernet - 1:+.1%} of Ethernet's"
            scale.tell(f"{nodes} nodes, {name}: {value:.0f} TFLOP/s, {against} {ethernet:g}")
    with drawing(columns=2, height=3.0) as (figure, axes):
        for axis, (nodes, found) in zip(axes, rows.items(), strict=True):
            names = [name for name in found if name != "best cut"]
            axis.bar(names, [found[name] for name in names], color=colour(0))
            for i, (name, row) in enumerate(zip(("InfiniBand", "RoCE", "Ethernet"), ROWS[nodes], strict=True)):
                axis.axhline(row, color=colour(i + 1), ls=":", label=name)
            axis.set(ylabel="TFLOP/s per GPU", title=f"{nodes // 2} + {nodes // 2} nodes", ylim=(0, None))
            axis.legend(fontsize=7)
        picture = svg(figure, HYBRID.name, f"Predicted hybrid rows and published homogeneous ones. {HYBRID.text}")
    value = min(shares)
    sites = {str(nodes): calibrated(nodes).networks for nodes in ROWS}
    details = {"rows": {str(n): row for n, row in rows.items()}, "bytes per second of a node": sites}
    return Measurement(value, (value, value), picture, details)


def measure_uneven(scale: Scale) -> Measurement:
    """Both have the same GPUs: layers moved from RoCE make sums shorter and the other stage's passes longer."""
    found = hybrid(calibrated(4), SMALL)
    value, best = (found[name] / found["nic-aware"] for name in ("uneven", "best cut"))
    scale.tell(f"by speed × {value:.3f}, the best of all cuts × {best:.3f}")
    return Measurement(value, (value, value), None, {"best of all cuts": best})


def measure_ratio(scale: Scale) -> Measurement:
    """With the constants of 3.6B on eight nodes; sizes are told, the ratio is judged."""
    found = hybrid(calibrated(8), LARGE)
    for name, value in found.items():
        said = f", chart {CHART[name]:g}: {value / CHART[name] - 1:+.0%}" if name in CHART else ""
        scale.tell(f"7.5B, {name}: {value:.0f} TFLOP/s{said}")
    ratio = found["overlapped"] / found["naive"]
    off = ratio / (CHART["overlapped"] / CHART["naive"]) - 1
    scale.tell(f"ratio {ratio:.2f}, chart {CHART['overlapped'] / CHART['naive']:.2f}: {off:+.0%}")
    return Measurement(abs(off), (abs(off), abs(off)), None, {"ratio": ratio, "rows": found, "chart": CHART})


MEASURES: dict[Claim, Measure] = {
    GROUPS: measure_groups,
    CUT: measure_cut,
    HYBRID: measure_hybrid,
    UNEVEN: measure_uneven,
    RATIO: measure_ratio,
}
