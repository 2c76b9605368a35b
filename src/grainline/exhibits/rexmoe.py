"""ReXMoE (arXiv 2510.17483): layers share their experts; more to choose from at no more expert weights.

Published effects on quality are tiny (reuse alone −0.003 nats per token at 2.3B, with progressive routing −0.022), so
what is seen at a millionth of that compute says whether anything is there at all. Beside it stand two controls: a plain
model whose own experts are closed at random (it may all be dropout), and one with as many experts of its own as the
shared pool has (what sharing stands in for). What it costs is counted, and measured on one layer.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grainline._figure import MUTED
from grainline.documents import Attention, ModelConfig, Moe, Recipe
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import alternate, estimate, ratio
from grainline.exhibits.training import Run, trained

if TYPE_CHECKING:
    from grainline.models.moe import MoeLayer
    from grainline.models.moe.experts import SwigluExperts

SEEDS = (0, 1, 2)
VOCABULARY, SEQUENCE = 1024, 128
LAYERS, SIZE, EXPERTS, TOP_K = 8, 128, 8, 2

QUALITY = Claim(
    name="rexmoe.quality",
    text=(
        "Sharing experts among four layers with progressive routing lowers loss at equal parameters and tokens: "
        "perplexity 20.73 against 21.19 (2.3BA0.3B, ablation table)."
    ),
    quantity="held-out bits per byte with reuse 4 and progressive routing / of the plain model, equal tokens in order",
    expected=0.993,  # ln 20.73 / ln 21.19
    margin=0.006,  # at this scale the claim is one of sign
    better="lower",
    baseline="the same model whose layers share nothing, with the same tokens in the same order",
    seeds=SEEDS,
    how="real",
)
SPREAD = Claim(
    name="rexmoe.spread",
    text="Load spreads as more layers share: why R16 and R32 fall behind (analysis of load balance).",
    quantity="max / mean load of an expert over its layers, late in training, with reuse 8 / with none; no balancing",
    expected=1.3,
    margin=0.2,
    better="higher",
    baseline="the same model whose layers share nothing",
    seeds=SEEDS,
    how="real",
)
BANK_BIAS = Claim(
    name="rexmoe.bank-bias",
    text="Ours: a selection bias that follows the load of the bank evens out experts that layers share.",
    quantity="max / mean load of an expert over its layers, reuse 4: biases by the bank's load / by each layer's",
    expected=1.0,
    margin=0.1,
    better="lower",
    baseline="biases that follow the choices of their own layer",
    seeds=SEEDS,
    how="real",
)
TOUCHED = Claim(
    name="rexmoe.touched",
    text="Ours, in closed form: T tokens touch E(1 − (1 − K/E)^T) experts; at reuse 4, 128 read 3.9 × the weights.",
    quantity="largest deviation of counted experts from the formula, relative; 1 to 1,024 tokens, reuse 1, 2, 4 and 8",
    expected=0.0,
    margin=0.05,
    better="lower",
    baseline="the closed form",
    seeds=SEEDS,
    how="real",
    quick_decides=True,
)
PREFILL = Claim(
    name="rexmoe.prefill",
    text="Decoding one token is as fast as before; short prompts are clearly slower (vLLM, figure on inference speed).",
    quantity="seconds of an expert layer on 128 tokens, reuse 4 / reuse 1, weights larger than the caches",
    expected=2.0,  # between 1, where products bind, and 3.9, where weights do
    margin=0.7,
    better="higher",
    baseline="the same layer with its own 64 experts, in turns",
    seeds=(0,),
    how="real",
)

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "reuse 2": ({"reuse": 2}, {}),
    "reuse 2, progressive": ({"reuse": 2}, {"opening": "linear"}),
    "reuse 4": ({"reuse": 4}, {}),
    "reuse 4, progressive": ({"reuse": 4}, {"opening": "linear"}),
    "plain, closed at random": ({}, {"opening": "linear", "open_share": 0.5}),
    "4 × own experts": ({"experts": 4 * EXPERTS}, {}),
}
"""What is trained → its [moe] and its [routing]."""


def recipe(
    scale: Scale, seed: int, name: str, moe: Mapping[str, Any], routing: Mapping[str, Any], *, balanced: bool = True
) -> Recipe:
    """One run; all have the same data in the same order, steps and rate."""
    steps, batch = scale.pick(full=(300, 2048), quick=(6, 512))
    return Recipe.parse(
        {
            "name": f"{name}, seed {seed}",
            "seed": seed,
            "model": {"config": model(**{"bias_balanced": balanced, **moe}).tables()},
            "data": {
                "vocab_size": VOCABULARY,
                "sequence_length": SEQUENCE,
                "validation_fraction": 0.03,
                "max_bytes": scale.pick(full=5_000_000, quick=400_000),
            },
            "training": {"steps": steps, "batch_tokens": batch},
            "learning_rate": {"schedule": "cosine", "peak": 0.01, "warmup_steps": steps // 15, "final": 0.1},
            "routing": dict(routing),
            "precision": {"compute": "float32"},
            "validation": {"every": max(1, steps // 5), "max_sequences": scale.pick(full=400, quick=8)},
            "checkpoint": {"every": steps},
        },
        where="rexmoe",
    )


def model(**moe: Any) -> ModelConfig:
    """Eight sparse layers; weights of the chosen aren't made to sum to 1, as printed."""
    return ModelConfig(
        family="grainline",
        vocab_size=VOCABULARY,
        hidden_size=SIZE,
        layers=LAYERS,
        ffn_hidden=SIZE // 2,
        max_positions=SEQUENCE,
        attention=Attention(heads=4, kv_heads=2, head_dim=SIZE // 4),
        moe=Moe(
            **{
                "experts": EXPERTS,
                "top_k": TOP_K,
                "expert_hidden": SIZE // 2,
                "router": "softmax-topk",
                "normalize": False,
                **moe,
            }
        ),
    )


def runs_of(
    scale: Scale, kinds: Mapping[str, tuple[dict[str, Any], dict[str, Any]]], *, balanced: bool = True
) -> dict[str, list[Run]]:
    """A run of each kind and seed."""
    recipes = [
        recipe(scale, seed, name, moe, routing, balanced=balanced)
        for name, (moe, routing) in kinds.items()
        for seed in scale.seeds
    ]
    runs = iter(trained(recipes, scale))
    return {name: [next(runs) for _ in scale.seeds] for name in kinds}


def measure_quality(scale: Scale) -> Measurement:
    """All kinds; differences from the plain model, seed by seed, are kept in nats-free bits per byte."""
    kinds = scale.pick(full=KINDS, quick={name: KINDS[name] for name in ("plain", "reuse 4, progressive")})
    ends = {name: [run.bits_per_byte for run in runs] for name, runs in runs_of(scale, kinds).items()}
    found = ratio(ends["reuse 4, progressive"], ends["plain"])
    paired = {name: [a - b for a, b in zip(of, ends["plain"], strict=True)] for name, of in ends.items()}
    with drawing(height=3.4) as (figure, (axes,)):
        for i, (_, values) in enumerate(list(paired.items())[1:]):
            axes.plot(values, [i] * len(values), color=colour(0), marker=MARKERS[0], ls="", ms=4)
            axes.plot(statistics.fmean(values), i, color=colour(1), marker="|", ms=14, mew=2)
        axes.axvline(0, color=MUTED[0], lw=0.8)
        axes.set_yticks(range(len(paired) - 1), list(paired)[1:])
        axes.grid(axis="x", alpha=0.25)
        axes.set(xlabel="bits per byte more than the plain model", title="Held-out text; each seed, and their mean")
        picture = svg(figure, QUALITY.name, f"Differences by kind of model. {QUALITY.quantity}.")
    return Measurement(found.value, found.error_bar, picture, {"bits_per_byte": ends, "less_plain": paired})


def late_load(run: Run, reuse: int) -> dict[str, float]:
    """Of experts over all layers that have them, in the last quarter of what was kept: max / mean, and idle ones.

    Idle is who gets less than a tenth of the mean.
    """
    kept = [line["loads"] for line in run.metrics if "loads" in line]
    late = kept[-max(1, len(kept) // 4) :]
    loads = [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*late, strict=True)]  # of each layer
    banks = [
        [sum(column) for column in zip(*loads[first : first + reuse], strict=True)]
        for first in range(0, len(loads), reuse)
    ]
    means = [statistics.fmean(bank) for bank in banks]
    return {
        "max_over_mean": statistics.fmean(max(bank) / mean for bank, mean in zip(banks, means, strict=True)),
        "idle": statistics.fmean(
            sum(load < 0.1 * mean for load in bank) / len(bank) for bank, mean in zip(banks, means, strict=True)
        ),
    }


def measure_spread(scale: Scale) -> Measurement:
    """Load by how many layers share, without any balancing."""
    reuses = scale.pick(full=(1, 2, 4, 8), quick=(1, 8))
    runs = runs_of(scale, {f"reuse {r}, unbalanced": ({"reuse": r}, {}) for r in reuses}, balanced=False)
    loads = {r: [late_load(run, r) for run in of] for r, of in zip(reuses, runs.values(), strict=True)}
    found = ratio(*([each["max_over_mean"] for each in loads[r]] for r in (8, 1)))
    picture = _loads(SPREAD, {f"{r}": of for r, of in loads.items()}, "layers that share")
    return Measurement(found.value, found.error_bar, picture, {"load": {str(r): of for r, of in loads.items()}})


def measure_bank_bias(scale: Scale) -> Measurement:
    """What biases follow."""
    kinds = {"layer's load": ({"reuse": 4}, {}), "bank's load": ({"reuse": 4}, {"load": "bank"})}
    loads = {name: [late_load(run, 4) for run in of] for name, of in runs_of(scale, kinds).items()}
    found = ratio(*([each["max_over_mean"] for each in loads[f"{by}'s load"]] for by in ("bank", "layer")))
    return Measurement(found.value, found.error_bar, _loads(BANK_BIAS, loads, "biases follow the"), {"load": loads})


def _loads(claim: Claim, loads: Mapping[str, Sequence[Mapping[str, float]]], label: str) -> str:
    titles = {"max_over_mean": "max / mean load of an expert", "idle": "share of experts with < 0.1 of the mean"}
    with drawing(2, height=2.8) as (figure, both):
        for axes, (key, title) in zip(both, titles.items(), strict=True):
            for i, of in enumerate(loads.values()):
                axes.plot([i] * len(of), [each[key] for each in of], color=colour(0), marker=MARKERS[0], ls="", ms=4)
            axes.set_xticks(range(len(loads)), list(loads))
            axes.margins(x=0.2)
            axes.set(xlabel=label, title=title)
        return svg(figure, claim.name, f"Load of experts. {claim.quantity}.")


TOKENS = (1, 4, 16, 64, 128, 256, 1024)
INFERENCE = {"experts": 64, "top_k": 8, "hidden_size": 256, "expert_hidden": 384}  # 75 MB of weights in float32
REUSES = (1, 2, 4, 8)


def measure_touched(scale: Scale) -> Measurement:
    """Experts that a new router sends even tokens to, counted."""
    import torch

    from grainline.models.count import touched_experts

    counted: dict[int, list[float]] = {}
    for reuse in REUSES:
        counted[reuse] = []
        for tokens in TOKENS:
            seen = []
            for seed in scale.seeds:
                layer, _ = _layer(reuse, seed, weights=False)
                generator = torch.Generator().manual_seed(seed)
                for _ in range(scale.pick(full=20, quick=6)):
                    x_TD = torch.randn(tokens, INFERENCE["hidden_size"], generator=generator)
                    seen.append(len(layer.router(x_TD, 1, False).routing.expert_N.unique()))
            counted[reuse].append(statistics.fmean(seen))
    formula = {r: [touched_experts(64 * r, 8, tokens) for tokens in TOKENS] for r in REUSES}
    misses = [abs(a / b - 1) for r in REUSES for a, b in zip(counted[r], formula[r], strict=True)]
    with drawing() as (figure, (axes,)):
        for i, r in enumerate(REUSES):
            axes.plot(TOKENS, counted[r], color=colour(i), marker=MARKERS[i], ls="", ms=4)
            axes.plot(TOKENS, formula[r], color=colour(i), lw=1, label=f"reuse {r}")
        axes.set_xscale("log", base=2)
        axes.set(xlabel="tokens", ylabel="different experts", title="Points are counted, lines the closed form")
        axes.legend()
        picture = svg(figure, TOUCHED.name, f"Experts touched by tokens. {TOUCHED.quantity}.")
    bytes_over_plain = {str(r): [a / b for a, b in zip(counted[r], counted[1], strict=True)] for r in REUSES}
    details = {"tokens": TOKENS, "weight_bytes_over_plain": bytes_over_plain}
    return Measurement(max(misses), (max(misses), max(misses)), picture, details)


def measure_prefill(scale: Scale) -> Measurement:
    """One layer at every number of tokens, in turns with its plain twin."""
    import torch

    layers = {reuse: _layer(reuse, 0) for reuse in scale.pick(full=(1, 4), quick=(1, 2))}
    most = max(layers)
    rounds = scale.pick(full=15, quick=3)
    ratios: dict[int, list[float]] = {}
    for tokens in scale.pick(full=(*TOKENS, 4096), quick=(1, 128)):
        batches = iter([torch.randn(1, tokens, INFERENCE["hidden_size"]) for _ in range(4 * (rounds + 2))])

        def run(reuse: int, batches: Any = batches) -> None:
            layer, bank = layers[reuse]
            with torch.no_grad():
                layer(next(batches), bank=bank)

        seconds = alternate(
            {"plain": lambda run=run: run(1), "shared": lambda run=run: run(most)},  # type: ignore[misc]
            rounds=rounds,
        )
        ratios[tokens] = [a / b for a, b in zip(seconds["shared"], seconds["plain"], strict=True)]
    found = estimate(ratios[128])
    from grainline.models.count import touched_experts

    with drawing() as (figure, (axes,)):
        bound = [touched_experts(64 * most, 8, tokens) / touched_experts(64, 8, tokens) for tokens in ratios]
        axes.plot(list(ratios), bound, color=MUTED[0], lw=1, label="weights that must be read")
        axes.plot(list(ratios), [statistics.median(r) for r in ratios.values()], color=colour(0), marker="o", ms=4)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="tokens", ylabel="times the plain layer", title=f"Seconds of a layer, reuse {most}; medians")
        axes.legend()
        picture = svg(figure, PREFILL.name, f"Time of a layer by tokens. {PREFILL.quantity}.")
    return Measurement(found.value, found.error_bar, picture, {"ratios": {str(t): r for t, r in ratios.items()}})


def _layer(reuse: int, seed: int, *, weights: bool = True) -> tuple[MoeLayer, SwigluExperts | None]:
    """A layer of the inference shape, its experts beside it where they are shared."""
    import torch

    from grainline.models.moe import MoeLayer, build_experts

    config = model(
        experts=INFERENCE["experts"], top_k=INFERENCE["top_k"], expert_hidden=INFERENCE["expert_hidden"], reuse=reuse
    ).model_copy(update={"hidden_size": INFERENCE["hidden_size"]})
    with torch.device("cpu" if weights else "meta"):
        layer, bank = MoeLayer(config, 0), build_experts(config) if reuse > 1 else None
    generator = torch.Generator().manual_seed(seed)
    router = layer.get_parameter("router.weight_ED")
    layer.get_submodule("router").weight_ED = torch.nn.Parameter(torch.randn(router.shape, generator=generator))
    for parameter in (*layer.parameters(), *(bank.parameters() if bank else ())) if weights else ():
        if parameter.ndim > 2:
            parameter.data.normal_(0.0, 0.05, generator=generator)
    return layer, bank


MEASURES: dict[Claim, Measure] = {
    QUALITY: measure_quality,
    SPREAD: measure_spread,
    BANK_BIAS: measure_bank_bias,
    TOUCHED: measure_touched,
    PREFILL: measure_prefill,
}
