"""COMET (arXiv 2502.19811): tiles in the order in which rows come and results go, so that communication hides by tiles.

Simulated as the paper's node: 8 H800, 132 SMs, 989 TFLOP/s of which 75 % are reached, 200 GB/s a direction of which
80 % are; routing is balanced, one matrix stands for each product, tiles are 128 × 256. Launches and permutations, for
which the paper's baselines also pay, take no time, so the published 1.96 over four of them isn't claimed here. Beside
it a real layer runs on this CPU, whose peers are played by a thread.
"""

from __future__ import annotations

from functools import cache

from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import ratio
from grainline.exhibits.played_peers import run_layers
from grainline.schedule.overlap import ExpertLayer, Options, TileDevice, chunked, serial, spent, tile_order
from grainline.schedule.overlap.lower import Spent

RANKS, TOKENS = 8, 16384
H800 = TileDevice(workers=132, flops_per_second=0.75 * 989e12, link_bytes_per_second=0.8 * 200e9)
MODELS = {"Mixtral": (8, 2, 4096, 14336), "Qwen2-MoE": (64, 4, 2048, 1408), "Phi-3.5-MoE": (16, 2, 4096, 6400)}
"""E, K, D, F."""
GROUPS = (1, 2, 4)

HIDDEN = Claim(
    name="comet-moe.hidden",
    text="Of a Mixtral layer's communication 86.5 % is hidden: E 8, K 2, M 16384, EP 8 on 8 H800 (figure 11).",
    quantity="1 − (layer's time − compute) / communication, tile order with 4 groups of columns",
    expected=0.865,
    margin=0.03,
    better="higher",
    baseline="the serial layer's compute; two and four chunks beside it (the paper: FasterMoE 29.2 %, Tutel 68.6 %)",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
SPEED = Claim(
    name="comet-moe.speed",
    text="Tile order is 1.24 times as fast as the serial Mixtral layer, by a sketch of the same simulation.",
    quantity="simulated seconds of the serial layer / of tile order; Mixtral, M 16384, EP 8",
    expected=1.24,
    margin=0.03,
    better="higher",
    baseline="the serial layer: dispatch, both products, return",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
CHUNKS = Claim(
    name="comet-moe.chunks",
    text="Tile order beats the better of two and four chunks by 1.12 on Mixtral, M 16384, EP 8.",
    quantity="simulated seconds of the better of 2 and 4 chunks / of tile order",
    expected=1.12,
    margin=0.03,
    better="higher",
    baseline="chunk pipelining on the same link",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
FORMULA = Claim(
    name="comet-moe.formula",
    text="Bound by compute, 1 − 1/(2g) of communication is hidden with g groups of columns.",
    quantity="largest |hidden − (1 − 1/(2g))| of g 1, 2, 4; Mixtral",
    expected=0.0,
    margin=0.005,
    better="lower",
    baseline="the closed form",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
REAL = Claim(
    name="comet-moe.real",
    text="Tile order hides communication of a real layer: (C + V/g) / (C + 2V) of the serial layer's time at best.",
    quantity="seconds of tile order / of the serial layer; 2 worker threads, 4 sources, V = C/4 each way, 4 groups",
    expected=(1 + 0.25 / 4) / (1 + 2 * 0.25),
    margin=0.1,
    better="lower",
    baseline="the serial layer on the same threads and tiles, in turns; two chunks beside it",
    seeds=(0, 1, 2),
    how="real",
)


def balanced(model: str) -> ExpertLayer:
    """One rank's part with as many rows from each rank for each expert."""
    experts, top_k, width, hidden = MODELS[model]
    rows = TOKENS * top_k // (RANKS * experts)
    return ExpertLayer(((rows,) * (experts // RANKS),) * RANKS, width, hidden)


@cache
def layers(model: str) -> dict[str, Spent]:
    """Every way to run a model's layer."""
    layer = balanced(model)
    base = serial(layer)
    plans = {
        "serial": base,
        **{f"{k} chunks": chunked(layer, Options(chunks=k)) for k in (2, 4)},
        **{f"tile order, g = {g}": tile_order(layer, Options(groups=g)) for g in GROUPS},
        "tile order, 8 SMs send": tile_order(layer, Options(comm_workers=8)),
    }
    return {name: spent(plan, base, H800) for name, plan in plans.items()}


BEST = f"tile order, g = {GROUPS[-1]}"


def _measured(value: float, claim: Claim) -> Measurement:
    details = {
        model: {name: {"seconds": s.seconds, "hidden": s.hidden} for name, s in layers(model).items()}
        for model in MODELS
    }
    return Measurement(value, (value, value), _draw(claim), details)


def measure_hidden(scale: Scale) -> Measurement:
    """Mixtral's."""
    return _measured(layers("Mixtral")[BEST].hidden, HIDDEN)


def measure_speed(scale: Scale) -> Measurement:
    """Against the serial layer; other models are drawn."""
    found = layers("Mixtral")
    return _measured(found["serial"].seconds / found[BEST].seconds, SPEED)


def measure_chunks(scale: Scale) -> Measurement:
    """Against the better number of chunks."""
    found = layers("Mixtral")
    return _measured(min(found[f"{k} chunks"].seconds for k in (2, 4)) / found[BEST].seconds, CHUNKS)


def measure_formula(scale: Scale) -> Measurement:
    """The worst of all g."""
    found = layers("Mixtral")
    worst = max(abs(found[f"tile order, g = {g}"].hidden - (1 - 1 / (2 * g))) for g in GROUPS)
    return _measured(worst, FORMULA)


def _draw(claim: Claim) -> str:
    with drawing(width=8.5) as (figure, (axes,)):
        names = list(layers("Mixtral"))
        for i, name in enumerate(names):
            at = [m + 0.11 * i for m in range(len(MODELS))]
            values = [1e3 * layers(model)[name].seconds for model in MODELS]
            axes.bar(at, values, 0.1, color=colour(i), label=name, hatch="" if i < 4 else "//", alpha=0.9)
        for m, model in enumerate(MODELS):
            one = layers(model)["serial"]
            for level, style in ((one.compute_seconds, "-"), (one.link_seconds, ":")):
                axes.plot([m - 0.06, m + 0.72], [1e3 * level] * 2, color="black", lw=0.8, ls=style)
        axes.set_xticks([m + 0.33 for m in range(len(MODELS))], list(MODELS))
        axes.set(ylabel="ms", title="One MoE layer on 8 H800, simulated; lines: compute alone, and dotted its messages")
        axes.legend(fontsize=7, ncols=2)
        return svg(figure, claim.name, f"Time of one MoE layer by how it is overlapped. {claim.quantity}.")


def measure_real(scale: Scale) -> Measurement:
    """In turns; the link's rate is such that rows take a quarter of the compute to come, and as long to go back."""
    found: dict[str, list[float]] = {}
    for seed in scale.seeds:
        for name, seconds in run_layers(seed, scale.pick(full=5, quick=1), scale.pick(full=2048, quick=512)).items():
            found.setdefault(name, []).extend(seconds)
    result = ratio(found["tile"], found["serial"])
    with drawing() as (figure, (axes,)):
        for i, seconds in enumerate(found.values()):
            axes.plot([i] * len(seconds), [1e3 * s for s in seconds], MARKERS[i], color=colour(i), alpha=0.6)
        axes.set_xticks(range(len(found)), list(found))
        axes.set_ylim(bottom=0)
        axes.set(ylabel="ms", title="A layer on two threads of this CPU, its peers played")
        picture = svg(figure, REAL.name, f"Measured times of one layer. {REAL.quantity}.")
    chunks = ratio(found["chunks"], found["serial"])
    return Measurement(result.value, result.error_bar, picture, {"seconds": found, "chunks_over_serial": chunks.value})


MEASURES: dict[Claim, Measure] = {
    HIDDEN: measure_hidden,
    SPEED: measure_speed,
    CHUNKS: measure_chunks,
    FORMULA: measure_formula,
    REAL: measure_real,
}
