"""MoE++ (arXiv 2410.07348): zero, copy and constant experts beside the FFN experts, so that tokens pay for fewer FFNs.

Time is taken of the expert layer's work alone, as in the paper, on routings drawn so that a given share s of choices
falls on FFNs: what a trained router makes of s is the other claims' matter. Training is at a scale far below the
paper's, with its 8 + 4 experts; it shows which way an effect points.

Where runs depart from the paper: loads are brought to what τ says by a selection bias, for the plain model too, nothing
is dropped, and the optimiser is Muon. In a run on another seed the paper's balancing loss (here within each sequence,
with 0.01 of what is 1 at its best) didn't bring routers near s in so few steps; such a run is drawn beside the others.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from grainline.documents import ModelConfig, Moe
from grainline.exhibits.expert_bytes import Counter
from grainline.exhibits.figure import MARKERS, MUTED, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import alternate, estimate, ratio
from grainline.exhibits.moe_plus_plus_time import SHARES, Trial, fitted, prepared
from grainline.exhibits.small_models import draw_curves, ends, peak_rate, recipe, runs_of, small_model
from grainline.exhibits.training import Run

SEEDS = (0, 1, 2)
LAYERS, SIZE, HIDDEN = 4, 128, 128
TAUS = (0.1, 0.75, 1.0)
BY_LOSS = "MoE++, τ 0.75, by loss"
ABLATIONS: dict[str, dict[str, Any]] = {
    "zero alone": {"zero": 4, "copy_experts": 0, "constant": 0},
    "copy alone": {"zero": 0, "copy_experts": 4, "constant": 0},
    "constant alone": {"zero": 0, "copy_experts": 0, "constant": 4},
    "no gating residual": {"router": "softmax-topk"},
}
PAPER_TIME = {  # experts: τ → vanilla's expert forward time over MoE++'s
    "0.6B/(8+4)": {0.1: 2.645, 0.75: 1.252, 1.0: 1.191},
    "1B/(16+4)": {0.1: 2.112, 0.75: 1.221, 1.0: 1.152},
    "2B/(32+8)": {0.1: 1.635, 0.75: 1.218, 1.0: 1.157},
    "7B/(16+4)": {0.75: 1.278},
}

TIME = Claim(
    name="moe-plus-plus.time",
    text=(
        "Experts take less time where some choices cost nothing: at τ = 0.75 with 16 + 4 experts, D 768 and F 2,048, "
        "1.22 times the throughput of the plain layer; 1/s = 1.333 is the bound."
    ),
    quantity="expert forward time of the plain layer / MoE++'s at s = 0.75",
    expected=4 / 3,
    margin=0.1 * 4 / 3,
    better="higher",
    baseline="16 FFN experts of the same size, every token choosing 2 of them",
    seeds=(0,),
    how="real",
)
TOKENS = Claim(
    name="moe-plus-plus.tokens",
    text="At equal tokens MoE++ is no worse than the plain model of as many FFNs: 45.6 against 44.3 (0.6B, τ 0.75).",
    quantity="held-out bits per byte of MoE++ at τ = 0.75 / the plain model's, after equal tokens",
    expected=1.0,
    margin=0.005,
    better="lower",
    baseline="the same model with its 8 FFN experts only, top-2, at the same rate and balanced the same way",
    seeds=SEEDS,
    how="real",
)
FLOPS = Claim(
    name="moe-plus-plus.flops",
    text="At equal FLOPs of FFNs MoE++ is better than the plain model (abstract: and 1.1 to 2.1 times as fast).",
    quantity="held-out bits per byte of MoE++ at τ = 0.75 / the plain model's, after equal FLOPs of FFNs",
    expected=0.99,
    margin=0.01,
    better="lower",
    baseline="the plain model, trained for as many steps as cost its FFNs what MoE++'s cost; its rate decays, too",
    seeds=SEEDS,
    how="real",
)
SHARE = Claim(
    name="moe-plus-plus.share",
    text="τ sets the share of choices that fall on FFNs: s = τN/(τN + Z), 0.6 with 8 + 4 experts at 0.75 (3.3).",
    quantity="|share of choices on FFNs / s − 1|, mean of layers over the last quarter of the steps, at τ = 0.75",
    expected=0.0,
    margin=0.05,
    better="lower",
    baseline="s, by formula",
    seeds=SEEDS,
    how="real",
)
KINDS = Claim(
    name="moe-plus-plus.kinds",
    text=(
        "Each kind of costless expert alone is better than none, and all together are best: 46.6 without, 47.0 zero, "
        "47.2 copy, 47.4 constant, 47.7 all, 47.5 all without gating residual (1B, τ 0.75)."
    ),
    quantity="held-out bits per byte / the plain model's at equal tokens: the largest of zero, copy, constant alone",
    expected=1.0,
    margin=0.005,
    better="lower",
    baseline="the plain model; each kind alone has four experts, so that s is the same",
    seeds=SEEDS,
    how="real",
)
BYTES = Claim(
    name="moe-plus-plus.bytes",
    text="Costless experts are on every rank, so that only choices of FFNs go through the all-to-all (section 3.1).",
    quantity="|bytes of MoE++ / bytes of the plain layer − share of its choices on FFNs|, there, back and in backward",
    expected=0.0,
    margin=0.0,
    better="lower",
    baseline="the plain layer on the same tokens",
    seeds=(0,),
    how="real",
    quick_decides=True,
)


def model(tau: float | None, *, by_loss: bool = False, changed: Mapping[str, Any] | None = None) -> ModelConfig:
    """MoE++ with 8 + 4 experts, or the plain model with its 8; balanced by a bias, or by the loss; for ablations with
    some keys changed.
    """
    plain: dict[str, Any] = {"experts": 8, "top_k": 2, "expert_hidden": HIDDEN, "bias_balanced": not by_loss}
    costless = {"router": "gating-residual", "zero": 1, "copy_experts": 1, "constant": 2, "tau": tau}
    more = {"router": "softmax-topk"} if tau is None else costless | dict(changed or {})
    return small_model(LAYERS, SIZE, Moe.model_validate(plain | more))


def share_of(tau: float) -> float:
    """s of the trained model."""
    moe = model(tau).moe
    assert moe is not None
    return moe.ffn_share


def trained_runs(scale: Scale, plain_steps: float = 1.0) -> dict[str, list[Run]]:
    """The plain model for a share of the steps, MoE++ at each τ, and once balanced by the loss."""
    peak = peak_rate(scale, model(None))
    plain = {"plain": [recipe("plain", model(None), scale, seed, peak, plain_steps) for seed in scale.seeds]}
    models = {named(tau): model(tau) for tau in TAUS} | {BY_LOSS: model(0.75, by_loss=True)}
    more = {name: [recipe(name, config, scale, seed, peak) for seed in scale.seeds] for name, config in models.items()}
    return runs_of(plain | more, scale)


def named(tau: float) -> str:
    """In figures and results."""
    return f"MoE++, τ {tau:g}"


def measure_tokens(scale: Scale) -> Measurement:
    """Every τ is drawn and kept; 0.75 decides."""
    runs = trained_runs(scale)
    found = ratio(ends(runs[named(0.75)]), ends(runs["plain"]))
    picture = draw_curves(TOKENS, runs, dict.fromkeys(runs, 1.0), "million tokens")
    details = {"bits_per_byte": {name: ends(of) for name, of in runs.items()}, "ffn_share": _spent(runs)}
    return Measurement(found.value, found.error_bar, picture, details)


def measure_flops(scale: Scale) -> Measurement:
    """The same runs over what their FFNs cost, and a plain model that may cost as much as MoE++ at τ = 0.75 did."""
    full = trained_runs(scale)
    cost = _spent(full)
    runs = full | {"plain, fewer steps": trained_runs(scale, round(cost[named(0.75)], 2))["plain"]}
    cost |= {"plain, fewer steps": 1.0}
    found = ratio(ends(runs[named(0.75)]), ends(runs["plain, fewer steps"]))
    picture = draw_curves(FLOPS, runs, cost, "FLOPs of FFNs, as million tokens of the plain model")
    details = {"bits_per_byte": {name: ends(of) for name, of in runs.items()}, "cost": cost}
    return Measurement(found.value, found.error_bar, picture, details)


def measure_share(scale: Scale) -> Measurement:
    """By the choices that routers made in training."""
    runs = trained_runs(scale)
    late = _shares(runs)
    found = estimate([abs(share / share_of(0.75) - 1) for share in late[named(0.75)]])
    with drawing() as (figure, (axes,)):
        for i, tau in enumerate(TAUS):
            for each in runs[named(tau)]:
                steps = [line["step"] for line in each.metrics]
                shares = [1 - statistics.fmean(line["costless"]) for line in each.metrics]
                axes.plot(
                    steps, shares, color=colour(i), lw=0.9, label=named(tau) if each is runs[named(tau)][0] else None
                )
            axes.axhline(share_of(tau), color=MUTED[0], lw=0.8, ls=":")
        axes.set(ylim=(0, 1), xlabel="step", ylabel="share of choices", title="Choices that fall on FFNs; dotted: s")
        axes.legend()
        picture = svg(figure, SHARE.name, f"Share of choices on FFNs over training. {SHARE.quantity}.")
    return Measurement(
        found.value, found.error_bar, picture, {"late_share": late, "s": {tau: share_of(tau) for tau in TAUS}}
    )


def measure_kinds(scale: Scale) -> Measurement:
    """Each kind alone, all of them, and all without the residual between routers; all over the plain model."""
    peak = peak_rate(scale, model(None))
    models = {"plain": model(None), named(0.75): model(0.75)}
    models |= {name: model(0.75, changed=changed) for name, changed in ABLATIONS.items()}
    recipes = {
        name: [recipe(name, config, scale, seed, peak) for seed in scale.seeds] for name, config in models.items()
    }
    runs = runs_of(recipes, scale)
    over = {name: ratio(ends(of), ends(runs["plain"])) for name, of in runs.items() if name != "plain"}
    for name, of in over.items():
        scale.tell(f"{name}: {of.value:.4f} of the plain model's bits per byte")
    worst = max((over[name] for name in ABLATIONS if name.endswith("alone")), key=lambda one: one.value)
    picture = draw_curves(KINDS, runs, dict.fromkeys(runs, 1.0), "million tokens")
    details = {
        "bits_per_byte": {name: ends(of) for name, of in runs.items()},
        "over_plain": {name: [one.value, *one.error_bar] for name, one in over.items()},
        "ffn_share": _spent(runs),
    }
    return Measurement(worst.value, worst.error_bar, picture, details)


def _spent(runs: Mapping[str, Sequence[Run]]) -> dict[str, float]:
    """FFNs computed, of those that the plain model computes in as many steps: share of choices, over all steps."""
    found = {}
    for name, of in runs.items():
        costless = [share for each in of for line in each.metrics for share in line.get("costless", [0.0])]
        found[name] = 1 - statistics.fmean(costless)
    return found


def _shares(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[float]]:
    """Share of choices on FFNs, mean of layers over the last quarter of the steps; of models with costless experts."""
    found = {}
    for name, of in runs.items():
        late = [each.metrics[-max(1, len(each.metrics) // 4) :] for each in of]
        if all("costless" in line for lines in late for line in lines):
            found[name] = [1 - statistics.fmean(v for line in lines for v in line["costless"]) for lines in late]
    return found


def measure_bytes(scale: Scale) -> Measurement:
    """One layer of each on the same tokens, every row that reaches the dispatcher counted."""
    import torch

    from grainline.models.build import build
    from grainline.models.moe import MoeLayer

    x_BSD = torch.randn(4, scale.pick(full=1024, quick=128), SIZE, generator=torch.Generator().manual_seed(0))
    counted, shares = {}, {}
    for name, tau in {"plain": None, **{named(tau): tau for tau in TAUS}}.items():
        config = model(tau)
        layer = build(config, seed=1).blocks[0].ffn
        assert isinstance(layer, MoeLayer)
        counter = Counter.on(layer)
        out = layer(x_BSD.clone().requires_grad_(), report=True)
        out.out_BSD.square().sum().backward()
        counts = out.report.counts_E.tolist()
        counted[name] = counter.forward_bytes + counter.backward_bytes
        shares[name] = sum(counts[:8]) / sum(counts)
    worst = max(abs(counted[name] / counted["plain"] - shares[name]) for name in counted)
    return Measurement(worst, (worst, worst), None, {"bytes": counted, "ffn_share": shares})


def measure_time(scale: Scale) -> Measurement:
    """Routings with each share in turn, and t = a + b·s fitted to their medians."""
    trial = scale.pick(full=Trial(768, 2048, 4096), quick=Trial(64, 128, 256))
    seconds = alternate(prepared(trial), rounds=scale.pick(full=7, quick=2))
    found = ratio(seconds["plain"], seconds["s 0.75"])
    medians = {name: statistics.median(of) for name, of in seconds.items()}
    fixed, per_share = fitted([(share, medians[name]) for name, share in SHARES.items()])
    overhead = fixed / (fixed + per_share)
    scale.tell(f"t = a + b·s with a/(a + b) = {overhead:.3f}; the paper's times have 0.26 to 0.45")
    with drawing() as (figure, (axes,)):
        for i, (name, of) in enumerate(PAPER_TIME.items()):
            experts, costless = (int(n) for n in name.split("(")[1].rstrip(")").split("+"))
            shares = [tau * experts / (tau * experts + costless) for tau in of]
            axes.plot(
                shares, list(of.values()), color=MUTED[0], marker=MARKERS[i], ms=4, lw=0.7, label=f"paper, {name}"
            )
        here = {share: medians["plain"] / medians[name] for name, share in SHARES.items()}
        axes.plot(list(here), list(here.values()), color=colour(0), marker="o", label="here")
        axes.plot(list(here), [1 / share for share in here], color=colour(1), ls=":", label="1/s")
        axes.set(xlabel="s, share of choices on FFNs", ylabel="times as fast", title="Work of the experts, forward")
        axes.legend()
        picture = svg(figure, TIME.name, f"Speed-up of expert work by share of FFN choices. {TIME.quantity}.")
    details = {"seconds": seconds, "a": fixed, "b": per_share, "a/(a+b)": overhead}
    return Measurement(found.value, found.error_bar, picture, details)


MEASURES: dict[Claim, Measure] = {
    TIME: measure_time,
    TOKENS: measure_tokens,
    FLOPS: measure_flops,
    SHARE: measure_share,
    KINDS: measure_kinds,
    BYTES: measure_bytes,
}
