"""SonicMoE (arXiv 2512.14080): kept bytes that finer experts don't raise, a lower peak, counts in whole tiles.

Its kernels are for GPUs of one make; what is measured here is its algorithm, on a CPU, and its router. The paper's
figures of speed on H100 (TFLOPS forward and backward, tokens per day) are not reproduced by this exhibit.
"""

from __future__ import annotations

from grainline._figure import MUTED
from grainline.documents import ModelConfig, Moe
from grainline.exhibits.expert_memory import OURS, PEERS, Layer, kept_bytes, peak_bytes
from grainline.exhibits.figure import colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import estimate, ratio
from grainline.exhibits.small_models import draw_curves, ends, length, peak_rate, recipe, runs_of, small_model

D, ACTIVE = 1536, 2048  # width of a token, and n·K: the paper's 7B layer
GRAINS = {1024: 2, 512: 4, 256: 8}
"""n → K, all of the same active size."""
TILE = 128  # rows
TILES_PER_EXPERT = (2, 1)
"""T̄_e/M: tokens of an expert on average, in tiles."""

KEPT = Claim(
    name="sonicmoe.kept",
    text="Activation memory doesn't grow as experts get finer at equal active size n·K (abstract, figure 1).",
    quantity="bytes kept per token with n 256, K 8 / with n 1024, K 2; D 1536, bfloat16, lists included",
    expected=1.0,
    margin=0.01,
    better="lower",
    baseline="the same ratio of autograd's own gradients, by formula 64,512 / 27,648",
    seeds=(0,),
    how="real",
    quick_decides=True,
)
SHARE = Claim(
    name="sonicmoe.share",
    text="Of what plain autograd keeps (2D + 4KD + 6Kn bytes) the algorithm keeps 2D + 4Kn: 17 % with n 256, K 8.",
    quantity="bytes kept per token, lists included / 64,512; D 1536, n 256, K 8, bfloat16",
    expected=Layer(1, D, 256, 8, 8).least_bytes / Layer(1, D, 256, 8, 8).plain_bytes,
    margin=0.005,
    better="lower",
    baseline="autograd's own gradients, by formula; those of the reference backend are measured beside it",
    seeds=(0,),
    how="real",
    quick_decides=True,
)
PEAK = Claim(
    name="sonicmoe.peak",
    text="Peak activation memory of the 7B layer (T 24576, D 1536, n 256, E 128, K 8) is 45 % below ScatterMoE's.",
    quantity="peak bytes of tensors, forward and backward, weights' gradients included / strongest peer's, bfloat16",
    expected=0.55,
    margin=0.05,
    better="lower",
    baseline=f"the best of transformers' implementations that fit ({', '.join(PEERS)}), same experts and routing",
    seeds=(0, 1, 2),
    how="real",
)
WASTE = Claim(
    name="sonicmoe.waste",
    text="Rows that fill up tiles are E·M/(2TK) of all: 3.1, 6.3, 12.5 and 25 % with E 32 to 256; T 16384, K 4, M 128.",
    quantity="largest |rows added to fill tiles / TK − E·M/(2TK)| of E 32, 64, 128, 256; counts drawn evenly",
    expected=0.0,
    margin=0.025,  # a mean of two whole tiles, as with E 256, has its own say
    better="lower",
    baseline="the formula, half a tile for each expert",
    seeds=tuple(range(8)),
    how="real",
    quick_seeds=tuple(range(8)),
    quick_decides=True,
)
QUALITY = Claim(
    name="sonicmoe.quality",
    text="Token rounding trains as well as top-K where an expert has two tiles of tokens: 15.92 against 15.94 (0.5B).",
    quantity="held-out bits per byte, both evaluated by top-K: trained with token rounding at T̄_e/M = 2 / with top-K",
    expected=1.0,
    margin=0.005,
    better="lower",
    baseline="the same model trained with plain top-K, same data in the same order; at T̄_e/M = 1 measured beside it",
    seeds=(0, 1, 2),
    how="real",
)


def measure_kept(scale: Scale) -> Measurement:
    """Counted tensor by tensor, of our algorithm and of autograd's own."""
    kept = _kept(scale)
    found = kept["sonic"][256] / kept["sonic"][1024]
    return Measurement(found, (found, found), _draw_kept(kept), {"bytes_per_token": kept})


def measure_share(scale: Scale) -> Measurement:
    """The same, against the formula."""
    kept = _kept(scale)
    found = kept["sonic"][256] / _layer(256).plain_bytes
    return Measurement(found, (found, found), None, {"bytes_per_token": kept})


def _kept(scale: Scale) -> dict[str, dict[int, float]]:
    tokens = scale.pick(full=512, quick=64)
    kept = {backend: {n: kept_bytes(_layer(n, tokens), backend) for n in GRAINS} for backend in ("sonic", "reference")}
    kept["least, by formula"] = {n: _layer(n).least_bytes for n in GRAINS}
    kept["plain, by formula"] = {n: _layer(n).plain_bytes for n in GRAINS}
    return kept


def _layer(n: int, tokens: int = 1) -> Layer:
    return Layer(tokens, D, n, 2 * GRAINS[n], GRAINS[n])


def _draw_kept(kept: dict[str, dict[int, float]]) -> str:
    with drawing() as (figure, (axes,)):
        for i, (name, label) in enumerate({"reference": "autograd's own", "sonic": "SonicMoE's algorithm"}.items()):
            bars = axes.bar(
                [at + 0.4 * i for at in range(len(GRAINS))],
                list(kept[name].values()),
                0.36,
                color=colour(i),
                label=label,
            )
            axes.bar_label(bars, [f"{value:,.0f}" for value in kept[name].values()], fontsize=7)
        for at, n in enumerate(GRAINS):
            for shift, formula in ((0.0, "plain, by formula"), (0.4, "least, by formula")):
                axes.plot([at + shift - 0.18, at + shift + 0.18], [kept[formula][n]] * 2, color=MUTED[0], lw=1.5)
        axes.set_xticks([at + 0.2 for at in range(len(GRAINS))], [f"n {n}, K {k}" for n, k in GRAINS.items()])
        axes.set(ylabel="bytes per token", title="Kept for the backward, measured; lines: by formula, without lists")
        axes.legend()
        return svg(figure, KEPT.name, f"Bytes kept as experts get finer. {KEPT.quantity}.")


def measure_peak(scale: Scale) -> Measurement:
    """Each run in a process of its own."""
    found: dict[str, list[float]] = {name: [] for name in (OURS, *PEERS)}
    resident: dict[str, list[int]] = {name: [] for name in found}
    for seed in scale.seeds:
        layer = scale.pick(full=Layer(24576, D, 256, 128, 8, seed), quick=Layer(2048, D, 256, 16, 8, seed))
        for name in found:
            peak = peak_bytes(layer, name)
            found[name].append(float(peak.allocated))
            resident[name].append(peak.resident)
            scale.tell(f"{name}, seed {seed}: {peak.allocated / 1e6:,.0f} MB, resident {peak.resident / 1e6:,.0f} MB")
    strongest = [min(found[name][i] for name in PEERS) for i in range(len(scale.seeds))]
    result = ratio(found[OURS], strongest)
    with drawing() as (figure, (axes,)):
        for i, of in enumerate(found.values()):
            middle = estimate(of)
            axes.barh(i, middle.value / 1e9, color=colour(i))
            axes.plot([middle.low / 1e9, middle.high / 1e9], [i, i], color=MUTED[0], lw=1.5)
        axes.set_yticks(range(len(found)), [OURS, *(f"transformers, {name}" for name in PEERS)])
        axes.set(xlabel="GB", title="Peak of forward and backward beyond inputs and weights")
        picture = svg(figure, PEAK.name, f"Peak memory of one expert layer. {PEAK.quantity}.")
    return Measurement(result.value, result.error_bar, picture, {"peak_bytes": found, "resident_bytes": resident})


def measure_waste(scale: Scale) -> Measurement:
    """Counts from even multinomial draws; what rounding to the nearest tile makes of the total is kept beside it."""
    import numpy as np
    import torch

    from grainline.kernels import round_counts

    tokens, top_k, kinds = 16384, 4, (32, 64, 128, 256)
    rows = tokens * top_k
    waste: dict[int, list[float]] = {experts: [] for experts in kinds}
    rounded: dict[int, list[float]] = {experts: [] for experts in kinds}
    for seed in scale.seeds:
        draw = np.random.default_rng(seed)
        for experts in kinds:
            counts = draw.multinomial(rows, np.full(experts, 1 / experts))
            waste[experts].append(float((-counts % TILE).sum() / rows))
            no_mass_TE = torch.zeros(tokens, experts)  # rounding to the nearest doesn't look at it
            rounded[experts].append(
                int(round_counts(torch.from_numpy(counts), no_mass_TE, TILE, "nearest").sum()) / rows
            )
    formula = {experts: experts * TILE / (2 * rows) for experts in kinds}
    worst = estimate([max(abs(waste[e][i] - formula[e]) for e in kinds) for i in range(len(scale.seeds))])
    with drawing() as (figure, (axes,)):
        axes.plot(kinds, [100 * formula[e] for e in kinds], color=MUTED[0], ls=":", label="E·M/(2TK)")
        axes.plot(kinds, [100 * estimate(waste[e]).value for e in kinds], color=colour(0), marker="o", label="drawn")
        axes.set_xscale("log", base=2)
        axes.set_xticks(kinds, [str(e) for e in kinds])
        axes.set(xlabel="E, experts", ylabel="% of all rows", title="Rows added to fill tiles of 128")
        axes.legend()
        picture = svg(figure, WASTE.name, f"Padding by number of experts. {WASTE.quantity}.")
    details = {"waste": waste, "formula": formula, "rounded_total": rounded}
    return Measurement(worst.value, worst.error_bar, picture, details)


def model(scale: Scale, tiles: int | None = None) -> ModelConfig:
    """Four sparse layers, 2 of 16 experts; with `tiles` an expert has so many of them on average, else plain top-K."""
    experts, top_k = 16, 2
    moe = Moe(experts=experts, top_k=top_k, expert_hidden=128, router="softmax-topk")
    if tiles is not None:
        tile = length(scale)[1] * top_k // experts // tiles
        moe = Moe(experts=experts, top_k=top_k, expert_hidden=128, router="token-rounding", tile=tile)
    return small_model(4, 128, moe)


def measure_quality(scale: Scale) -> Measurement:
    """A step is one micro-batch, so that its tokens are what is rounded."""
    peak = peak_rate(scale, model(scale))
    named = {"top-K": None, **{f"token rounding, T̄_e/M = {tiles}": tiles for tiles in TILES_PER_EXPERT}}
    recipes = {
        name: [recipe(name, model(scale, tiles), scale, seed, peak) for seed in scale.seeds]
        for name, tiles in named.items()
    }
    runs = runs_of(recipes, scale)
    plain, *rounding = runs
    found = ratio(ends(runs[rounding[0]]), ends(runs[plain]))
    picture = draw_curves(QUALITY, runs, dict.fromkeys(runs, 1.0), "million tokens")
    return Measurement(
        found.value, found.error_bar, picture, {"bits_per_byte": {name: ends(of) for name, of in runs.items()}}
    )


MEASURES: dict[Claim, Measure] = {
    KEPT: measure_kept,
    SHARE: measure_share,
    PEAK: measure_peak,
    WASTE: measure_waste,
    QUALITY: measure_quality,
}
