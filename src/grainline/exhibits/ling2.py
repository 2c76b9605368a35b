"""Ling 2.0 (arXiv 2510.22115): sparsity, balance without an auxiliary loss, and merging instead of decaying.

All of it is trained here, on the built-in corpus (eight languages and code), at a scale far below the papers': it
shows whether an effect is there and which way it points, not how large it is at theirs. What the Ling laws,
extrapolated this far, foresee for sparsity is computed, told, and kept with its result (`foreseen`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from grainline._figure import MUTED
from grainline.documents import ModelConfig, Recipe
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import ratio
from grainline.exhibits.training import Run, trained

SEEDS = (0, 1, 2)
VOCABULARY, SEQUENCE = 1024, 128  # tokens, and tokens per sequence
DEPTH = 3  # of the dial: D 96, three layers, the last two with 32 experts of F 24, 4 and a shared one per token
RATES = (0.25, 0.5, 1.0)  # times the rate of the Ling laws; sparse and dense each get the best of them
AUXILIARY = 0.01  # coefficient of the balancing loss, as usual since the Switch Transformer (arXiv 2101.03961, 2.2)

SPARSE = Claim(
    name="ling2.sparse",
    text=(
        "Sparse models reach the loss of dense ones with a fraction of the compute: Ling-mini and flash equal dense "
        "models of seven times their active parameters (section 2)."
    ),
    quantity="held-out bits per byte of the sparse model / the dense one, at equal FLOPs per token and equal tokens",
    expected=0.99,
    margin=0.01,  # at this scale the claim is one of sign
    better="lower",
    baseline="a dense model of the same active parameters, depth and width, with the same choice of learning rates",
    seeds=SEEDS,
    how="real",
)
BALANCE = Claim(
    name="ling2.balance",
    text="A selection bias per expert, stepped by the sign of its load, balances experts without a loss for it (2.2).",
    quantity="max / mean load of an expert over the last quarter, with the bias / without any balancing",
    expected=0.6,
    margin=0.2,
    better="lower",
    baseline="the same model without the bias",
    seeds=SEEDS,
    how="real",
)
FREE_BALANCE = Claim(
    name="ling2.free-balance",
    text="Balance by bias costs no quality, where an auxiliary loss pulls against the language model's own (2.2).",
    quantity="held-out bits per byte with the bias / with an auxiliary loss",
    expected=1.0,
    margin=0.002,
    better="lower",
    baseline=f"the same model with a sequence-wise balancing loss of coefficient {AUXILIARY}, and no bias",
    seeds=SEEDS,
    how="real",
)
WSM = Claim(
    name="ling2.wsm",
    text=(
        "Merging the last checkpoints of a run at constant rate replaces decaying the rate: WSM equals or beats WSD "
        "at the same tokens (arXiv 2507.17634: +1 to +2 points on every category of benchmarks)."
    ),
    quantity="held-out bits per byte of WSM's merged model / WSD's last",
    expected=1.0,
    margin=0.005,
    better="lower",
    baseline="WSD with a linear decay to zero over as many steps as WSM merges, at the rate that is best for WSD",
    seeds=SEEDS,
    how="real",
)
MERGE = Claim(
    name="ling2.merge",
    text="The merged model is better than the last checkpoint of its own run at constant rate (arXiv 2507.17634).",
    quantity="held-out bits per byte of the merged model / the last checkpoint",
    expected=0.985,
    margin=0.01,
    better="lower",
    baseline="the last checkpoint of the same run",
    seeds=SEEDS,
    how="real",
)

Balance = Literal["bias", "none", "auxiliary loss"]


def recipe(
    scale: Scale,
    seed: int,
    rate: float,
    *,
    sparse: bool = True,
    schedule: Literal["wsd", "wsm"] = "wsd",
    balance: Balance = "bias",
) -> Recipe:
    """One run: `rate` in multiples of the Ling laws' learning rate for its compute."""
    from grainline.plan.scaling_laws import learning_rate

    config = model(sparse, balance)
    steps, batch = length(scale)
    peak = rate * learning_rate(training_flops(scale, config))
    kind = f"sparse, {balance}" if sparse else "dense"
    return Recipe.parse(
        {
            "name": f"{kind}, {schedule}, rate × {rate:g}, seed {seed}",
            "seed": seed,
            "model": {"config": config.tables()},
            "data": {
                "vocab_size": VOCABULARY,
                "sequence_length": SEQUENCE,
                "validation_fraction": 0.03,
                "max_bytes": scale.pick(full=10_000_000, quick=400_000),
            },
            "training": {"steps": steps, "batch_tokens": batch},
            "learning_rate": {
                "schedule": schedule,
                "peak": peak,
                "warmup_steps": steps // 15,
                "decay_fraction": 0.3,
                "merge_checkpoints": scale.pick(full=12, quick=3),
            },
            "loss": {"balance_loss": AUXILIARY if balance == "auxiliary loss" else 0.0},
            "precision": {"compute": "float32"},
            "validation": {"every": max(1, steps // 10), "max_sequences": scale.pick(full=400, quick=8)},
            "checkpoint": {"every": steps},
        },
        where="ling2",
    )


def length(scale: Scale) -> tuple[int, int]:
    """Steps, and tokens of each."""
    return scale.pick(full=(500, 4096), quick=(8, 1024))


def training_flops(scale: Scale, config: ModelConfig) -> float:
    """FLOPs of a whole run."""
    from grainline.models.count import flops_per_token

    steps, batch = length(scale)
    return flops_per_token(config, SEQUENCE) * steps * batch


def foreseen(scale: Scale) -> dict[str, float | bool]:
    """What the Ling laws say of the sparse model at this compute: a leverage of 1 is no advantage."""
    from grainline.plan.scaling_laws import efficiency_leverage, is_fitted

    config = model(sparse=True)
    assert config.moe is not None
    moe, flops = config.moe, training_flops(scale, config)
    activation = (moe.top_k + moe.shared_experts) / (moe.experts + moe.shared_experts)
    leverage = efficiency_leverage(activation, 2 * config.hidden_size / moe.expert_hidden, flops)
    return {"flops": flops, "fitted": is_fitted(flops), "efficiency_leverage": leverage}


def model(sparse: bool, balance: Balance = "bias") -> ModelConfig:
    """The dial's model without MTP, or the dense model of as many active parameters."""
    from grainline.models.dial import config_for_depth, dense_twin

    config = config_for_depth(DEPTH, VOCABULARY, SEQUENCE).model_copy(update={"mtp_depth": 0})
    if not sparse:
        return dense_twin(config)
    assert config.moe is not None
    return config.model_copy(update={"moe": config.moe.model_copy(update={"bias_balanced": balance == "bias"})})


def best_rates(scale: Scale, kinds: Sequence[bool]) -> list[float]:
    """For sparse (True) and dense (False), the one of RATES with the lowest held-out loss under WSD, by the first seed.

    A quick run takes the middle one.
    """
    if scale.quick:
        return [RATES[1] for _ in kinds]
    runs = iter(trained([recipe(scale, SEEDS[0], rate, sparse=kind) for kind in kinds for rate in RATES], scale))
    ends = [{rate: next(runs).bits_per_byte for rate in RATES} for _ in kinds]
    return [min(RATES, key=lambda rate, tried=tried: tried[rate]) for tried in ends]  # type: ignore[misc]


def measure_sparse(scale: Scale) -> Measurement:
    """Both architectures over the seeds, each at its best rate; beside them what the laws foresee."""
    laws = foreseen(scale)
    how = "fitted there" if laws["fitted"] else "extrapolated"
    scale.tell(f"the Ling laws, {how}, foresee {laws['efficiency_leverage']:.2f} × at {laws['flops']:.2g} FLOPs")
    rates = dict(zip(("sparse", "dense"), best_rates(scale, (True, False)), strict=True))
    runs = _by_name(
        {name: [recipe(scale, seed, rates[name], sparse=name == "sparse") for seed in scale.seeds] for name in rates},
        scale,
    )
    found = ratio(_ends(runs["sparse"]), _ends(runs["dense"]))
    picture = _curves(SPARSE, runs, {name: f"{name}, rate × {rates[name]:g}" for name in runs})
    details = {"laws": laws, "rates": rates, "bits_per_byte": {name: _ends(of) for name, of in runs.items()}}
    return Measurement(found.value, found.error_bar, picture, details)


def balanced_runs(scale: Scale) -> dict[str, list[Run]]:
    """The sparse model at its best rate, balanced in each way."""
    (rate,) = best_rates(scale, (True,))
    ways: tuple[Balance, ...] = ("bias", "none", "auxiliary loss")
    return _by_name({way: [recipe(scale, seed, rate, balance=way) for seed in scale.seeds] for way in ways}, scale)


def measure_balance(scale: Scale) -> Measurement:
    """Loads with and without the bias; the auxiliary loss is drawn beside them."""
    runs = balanced_runs(scale)
    loads = {way: [late_imbalance(each) for each in of] for way, of in runs.items()}
    found = ratio(loads["bias"], loads["none"])
    with drawing() as (figure, (axes,)):
        for i, (way, of) in enumerate(runs.items()):
            for each in of:
                steps = [line["step"] for line in each.metrics]
                values = [statistics.fmean(line["imbalance"]) for line in each.metrics]
                axes.plot(steps, values, color=colour(i), lw=0.9, alpha=0.8, label=way if each is of[0] else None)
        axes.set(xlabel="step", ylabel="max / mean load", title="Load of the fullest expert, mean of layers; each seed")
        axes.axhline(1, color=MUTED[0], lw=0.8, ls=":")
        axes.legend()
        picture = svg(figure, BALANCE.name, f"Load of the fullest expert over training. {BALANCE.quantity}.")
    return Measurement(found.value, found.error_bar, picture, {"max_over_mean_load": loads})


def measure_free_balance(scale: Scale) -> Measurement:
    """Held-out loss of the three ways to balance."""
    ends = {way: _ends(of) for way, of in balanced_runs(scale).items()}
    found = ratio(ends["bias"], ends["auxiliary loss"])
    return Measurement(found.value, found.error_bar, _points(FREE_BALANCE, ends), {"bits_per_byte": ends})


def wsm_runs(scale: Scale) -> dict[str, list[Run]]:
    """WSD and WSM over the seeds, both at the rate that is best for WSD."""
    (rate,) = best_rates(scale, (True,))
    kinds: tuple[Literal["wsd", "wsm"], ...] = ("wsd", "wsm")
    return _by_name({kind: [recipe(scale, seed, rate, schedule=kind) for seed in scale.seeds] for kind in kinds}, scale)


def measure_wsm(scale: Scale) -> Measurement:
    """The merged model against the decayed one, over the whole course."""
    runs = wsm_runs(scale)
    ends = {kind: _ends(of) for kind, of in runs.items()}
    found = ratio(ends["wsm"], ends["wsd"])
    merged = {"merged (WSM)": (1, ends["wsm"])}
    picture = _curves(WSM, runs, {"wsd": "WSD: decaying rate", "wsm": "constant rate"}, merged)
    return Measurement(found.value, found.error_bar, picture, {"bits_per_byte": ends})


def measure_merge(scale: Scale) -> Measurement:
    """The merged model against the last weights that went into it."""
    runs = wsm_runs(scale)["wsm"]
    ends = {"last checkpoint": [each.last_bits_per_byte for each in runs], "merged": _ends(runs)}
    found = ratio(ends["merged"], ends["last checkpoint"])
    return Measurement(found.value, found.error_bar, _points(MERGE, ends), {"bits_per_byte": ends})


def _by_name(recipes: Mapping[str, Sequence[Recipe]], scale: Scale) -> dict[str, list[Run]]:
    """The runs of lists of recipes, all trained together."""
    runs = iter(trained([each for of in recipes.values() for each in of], scale))
    return {name: [next(runs) for _ in of] for name, of in recipes.items()}


def late_imbalance(of: Run) -> float:
    """Max / mean load, the mean over layers and over the last quarter of the steps."""
    late = of.metrics[-max(1, len(of.metrics) // 4) :]
    return statistics.fmean(value for line in late for value in line["imbalance"])


def _ends(runs: Sequence[Run]) -> list[float]:
    return [each.bits_per_byte for each in runs]


def _curves(
    claim: Claim,
    runs: Mapping[str, Sequence[Run]],
    labels: Mapping[str, str],
    ends: Mapping[str, tuple[int, Sequence[float]]] | None = None,
) -> str:
    """Held-out bits per byte over training, a line for each seed; `ends` are further points, by colour and label."""
    with drawing() as (figure, (axes,)):
        for i, (name, of) in enumerate(runs.items()):
            for each in of:
                tokens, values = each.curve()
                (line,) = axes.plot([t / 1e6 for t in tokens], values, color=colour(i), marker=MARKERS[i], ms=3, lw=1)
                line.set_label(labels[name] if each is of[0] else "")
        last = max(line["tokens"] for of in runs.values() for each in of for line in each.metrics) / 1e6
        for label, (i, points) in (ends or {}).items():
            axes.plot([last] * len(points), points, color=colour(i), marker="*", ms=9, ls="", label=label)
        finals = [each.curve()[1] for of in runs.values() for each in of]
        axes.set_ylim(min(map(min, finals)) * 0.985, statistics.median(values[len(values) // 4] for values in finals))
        axes.set(xlabel="million tokens", ylabel="bits per byte", title="Held-out text; each seed")
        axes.legend()
        return svg(figure, claim.name, f"Held-out bits per byte over training. {claim.quantity}.")


def _points(claim: Claim, ends: Mapping[str, Sequence[float]]) -> str:
    """Final bits per byte, a point for each seed, the same seeds joined by lines."""
    with drawing(height=2.6) as (figure, (axes,)):
        for seed in zip(*ends.values(), strict=True):
            axes.plot(range(len(ends)), seed, color=MUTED[0], lw=0.7, zorder=1)
        for i, values in enumerate(ends.values()):
            axes.plot([i] * len(values), values, color=colour(i), marker=MARKERS[i], ls="")
        axes.set_xticks(range(len(ends)), list(ends))
        axes.margins(x=0.2)
        axes.set(ylabel="bits per byte", title="Held-out text at the end; lines join equal seeds")
        return svg(figure, claim.name, f"Held-out bits per byte at the end. {claim.quantity}.")


MEASURES: dict[Claim, Measure] = {
    SPARSE: measure_sparse,
    BALANCE: measure_balance,
    FREE_BALANCE: measure_free_balance,
    WSM: measure_wsm,
    MERGE: measure_merge,
}
