"""BigMac (arXiv 2502.16927): tokens descend before the all-to-all and ascend after it, at a quarter of the bytes.

The paper's times are of 32 GPUs; here its ledger is computed, its speed-ups are held against a model of one step, and
quality and bytes are measured on small models. No step is timed: on one rank there is no all-to-all, and a bottleneck
only costs. Which model and batch the paper's shares of all-to-all time were measured on it doesn't say; they are taken
as they are. Added work comes from the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from grainline.documents import ModelConfig, Moe
from grainline.exhibits.bigmac_events import step
from grainline.exhibits.expert_bytes import Counter
from grainline.exhibits.figure import MARKERS, MUTED, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import ratio
from grainline.exhibits.small_models import draw_curves, ends, peak_rate, recipe, runs_of, small_model
from grainline.exhibits.training import Run
from grainline.plan.bottleneck import Sizes, behind_bottleneck, fine_grained, speed_up

SEEDS = (0, 1, 2)
LAYERS, SIZE = 4, 128
XL = Sizes(
    layers=24,
    hidden=2048,
    vocabulary=50257,
    sequence=2048,
    experts=64,
    top_k=8,
    ratio=0.25,
    batch_tokens=2**19,
    ranks=32,
)
# GPT-3 XL: billions of parameters, TFLOP and GiB of a step; then BigMac's, as more or less of these.
PRINTED = {
    "parameters, billions": 3.73,
    "TFLOP": 3490.67,
    "GiB": 1488.0,
    "parameters, added": 0.0135,
    "FLOPs, added": 0.0454,
    "bytes, saved": 0.75,
}
# Share of a fine-grained step in all-to-alls, 32 GPUs, by experts per token.
TRAINING = {1: 0.599, 2: 0.713, 4: 0.841, 6: 0.891, 8: 0.918}
INFERENCE = {1: 0.512, 2: 0.652, 4: 0.792, 6: 0.865, 8: 0.906}
MEASURED = {4: (3.48, 2.37), 8: (3.72, 2.95)}  # by experts per token: the all-to-all's gain, and the whole step's
DEEPSPEED = {4: 2.81, 8: 3.11}  # inference, ep 16, one token at a time

LEDGER = Claim(
    name="bigmac.ledger",
    text=(
        "GPT-3 XL with 64 experts, top-8, over 32 GPUs: 3.73B parameters, 3,490.67 TFLOP and 1,488 GB a step; a "
        "bottleneck of r = 1/4 adds 1.35 % and 4.54 %, and saves 75 % of the bytes."
    ),
    quantity="largest relative difference of the six figures from those printed",
    expected=0.0,
    margin=0.005,  # 1.35 % is printed to within 0.004 of itself
    better="lower",
    baseline="the printed figures; the batch is 2^19 tokens, and GB are GiB",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
SPEED = Claim(
    name="bigmac.speed",
    text="A training step over 32 GPUs is 2.37 times as fast with top-4, and 2.95 times with top-8.",
    quantity="largest relative difference from both of 1/((1 − a)(1 + δ) + a/g), with the published a and g",
    expected=0.0,
    margin=0.05,
    better="lower",
    baseline="the printed speed-ups; a is the all-to-all's share of a fine-grained step, g its own measured gain",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
EVENTS = Claim(
    name="bigmac.events",
    text="A training step over 4 machines of 8 GPUs is 2.37 times as fast with top-4, and 2.95 times with top-8.",
    quantity="largest relative difference from both of a step that is simulated message by message",
    expected=0.0,
    margin=0.05,
    better="lower",
    baseline="the printed speed-ups; products last as long as the printed shares of all-to-alls leave for them",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
QUALITY = Claim(
    name="bigmac.quality",
    text="After equal tokens BigMac is as good as fine-grained experts: perplexity 17.7, 17.9 (Medium, WikiText-2).",
    quantity="held-out bits per byte with a bottleneck of r = 1/4 / with fine-grained experts",
    expected=1.0,
    margin=0.01,
    better="lower",
    baseline="fine-grained experts with as many parameters in each, 32 of them, top-8",
    seeds=SEEDS,
    how="real",
)
LARGE = Claim(
    name="bigmac.large",
    text="After equal tokens BigMac is better than few large experts: perplexity 17.7, 20.1 (Medium, WikiText-2).",
    quantity="held-out bits per byte with a bottleneck of r = 1/4 / with 8 experts four times as large, top-2",
    expected=0.99,
    margin=0.01,  # at this scale the claim is one of sign
    better="lower",
    baseline="8 large experts, top-2: as many parameters in all, and used by a token",
    seeds=SEEDS,
    how="real",
)
BYTES = Claim(
    name="bigmac.bytes",
    text="The all-to-all moves r of the bytes, forward and backward (section 3.3).",
    quantity="|bytes with a bottleneck of r = 1/4 / with fine-grained experts − 1/4|",
    expected=0.0,
    margin=0.0,
    better="lower",
    baseline="fine-grained experts on the same tokens",
    seeds=(0,),
    how="real",
    quick_decides=True,
)


def figures() -> dict[str, float]:
    """Those of PRINTED, computed."""
    plain = fine_grained(XL)
    more = behind_bottleneck(XL).over(plain)
    values = (plain.parameters / 1e9, plain.flops / 1e12, plain.all_to_all_bytes / 2**30)
    return dict(zip(PRINTED, (*values, more.parameters, more.flops, -more.all_to_all_bytes), strict=True))


def measure_ledger(scale: Scale) -> Measurement:
    """Every figure is told."""
    found = figures()
    for name, value in found.items():
        scale.tell(f"{name}: {value:.5g}, printed {PRINTED[name]:g}")
    worst = max(abs(found[name] / printed - 1) for name, printed in PRINTED.items())
    return Measurement(worst, (worst, worst), None, {"computed": found, "printed": PRINTED})


def added(top_k: int) -> float:
    """δ: FLOPs that the projections add to those of a step with so many experts per token."""
    sizes = replace(XL, top_k=top_k)
    return behind_bottleneck(sizes).over(fine_grained(sizes)).flops


def measure_speed(scale: Scale) -> Measurement:
    """With the all-to-all's measured gains, and beside them with the g = 1/r of the bytes."""
    found = {k: speed_up(TRAINING[k], added(k), gain) for k, (gain, _) in MEASURED.items()}
    worst = max(abs(found[k] / step - 1) for k, (_, step) in MEASURED.items())
    by_bytes = {
        name: {k: speed_up(share, added(k), 1 / XL.ratio) for k, share in shares.items()}
        for name, shares in (("training", TRAINING), ("inference", INFERENCE))
    }
    for k, value in found.items():
        scale.tell(f"top-{k}: {value:.2f} by the model, {MEASURED[k][1]} printed, {by_bytes['training'][k]:.2f} at 1/r")
    with drawing() as (figure, (axes,)):
        for i, (name, of) in enumerate(by_bytes.items()):
            axes.plot(list(of), list(of.values()), color=colour(i), marker=MARKERS[i], label=f"{name}, model, g = 1/r")
        axes.plot(
            list(found), list(found.values()), color=colour(2), marker="^", ls="", label="training, model, g measured"
        )
        points = {k: step for k, (_, step) in MEASURED.items()}
        axes.plot(list(points), list(points.values()), color=MUTED[0], marker="*", ms=9, ls="", label="training, paper")
        axes.plot(
            list(DEEPSPEED), list(DEEPSPEED.values()), color=MUTED[0], marker="+", ls="", label="inference, paper"
        )
        axes.set(ylim=(1, None), xlabel="experts per token, of 64", ylabel="times as fast", title="A step over 32 GPUs")
        axes.legend()
        picture = svg(figure, SPEED.name, f"Speed-up by experts per token, model and paper. {SPEED.quantity}.")
    return Measurement(worst, (worst, worst), picture, {"model": found, "model at 1/r": by_bytes, "paper": points})


def measure_events(scale: Scale) -> Measurement:
    """The cluster's ports and lanes shared by 992 messages; and the same with rows that travel in 4 chunks."""
    found = {
        chunks: {k: step(replace(XL, top_k=k), share, added(k), chunks) for k, share in TRAINING.items()}
        for chunks in (1, 4)
    }
    paper = {k: speed for k, (_, speed) in MEASURED.items()}
    for k, printed in paper.items():
        one, gain = found[1][k], MEASURED[k][0]
        scale.tell(
            f"top-{k}: {one.speed_up:.2f} simulated, {found[4][k].speed_up:.2f} in 4 chunks, {printed} printed; "
            f"all-to-alls {one.gain:.2f} times as fast, {gain} measured"
        )
    worst = max(abs(found[1][k].speed_up / printed - 1) for k, printed in paper.items())
    by_model = {k: speed_up(share, added(k), 1 / XL.ratio) for k, share in TRAINING.items()}
    with drawing() as (figure, (axes,)):
        axes.plot(list(by_model), list(by_model.values()), color=MUTED[0], ls=":", label="model, g = 1/r")
        for i, (chunks, of) in enumerate(found.items()):
            label = "simulated" if chunks == 1 else f"simulated, rows in {chunks} chunks"
            speeds = [one.speed_up for one in of.values()]
            axes.plot(list(of), speeds, color=colour(i), marker=MARKERS[i], ls="", label=label)
        axes.plot(list(paper), list(paper.values()), color=MUTED[0], marker="*", ms=9, ls="", label="paper")
        axes.set(ylim=(1, None), xlabel="experts per token, of 64", ylabel="times as fast", title="A step over 32 GPUs")
        axes.legend()
        picture = svg(figure, EVENTS.name, f"Speed-up by experts per token, message by message. {EVENTS.quantity}.")
    details = {
        "simulated": {chunks: {k: vars(one) for k, one in of.items()} for chunks, of in found.items()},
        "model at 1/r": by_model,
        "paper": paper,
    }
    return Measurement(worst, (worst, worst), picture, details)


def models() -> Mapping[str, ModelConfig]:
    """Fine-grained experts, few large ones, and bottlenecks of three widths; all of equal expert parameters."""
    from grainline.models.dial import bottleneck_twin

    fine = small_model(LAYERS, SIZE, Moe(experts=32, top_k=8, expert_hidden=SIZE // 4, router="softmax-topk"))
    large = small_model(LAYERS, SIZE, Moe(experts=8, top_k=2, expert_hidden=SIZE, router="softmax-topk"))
    narrow = {f"bottleneck, r 1/{part}": bottleneck_twin(fine, SIZE // part) for part in (2, 4, 8)}
    return {"fine-grained": fine, "large": large, **narrow}


def trained_runs(scale: Scale) -> dict[str, list[Run]]:
    """All models over the seeds, at one rate."""
    peak = peak_rate(scale, models()["fine-grained"])
    recipes = {
        name: [recipe(name, config, scale, seed, peak) for seed in scale.seeds] for name, config in models().items()
    }
    return runs_of(recipes, scale)


def _compare(claim: Claim, against: str, scale: Scale) -> Measurement:
    runs = trained_runs(scale)
    found = ratio(ends(runs["bottleneck, r 1/4"]), ends(runs[against]))
    picture = draw_curves(claim, runs, dict.fromkeys(runs, 1.0), "million tokens")
    return Measurement(
        found.value, found.error_bar, picture, {"bits_per_byte": {n: ends(of) for n, of in runs.items()}}
    )


def measure_quality(scale: Scale) -> Measurement:
    """Against fine-grained experts."""
    return _compare(QUALITY, "fine-grained", scale)


def measure_large(scale: Scale) -> Measurement:
    """Against few large experts."""
    return _compare(LARGE, "large", scale)


def measure_bytes(scale: Scale) -> Measurement:
    """One layer of each on the same tokens, every row that reaches the dispatcher counted."""
    import torch

    from grainline.models.build import build
    from grainline.models.moe import MoeLayer

    x_BSD = torch.randn(4, scale.pick(full=1024, quick=128), SIZE, generator=torch.Generator().manual_seed(0))
    counted = {}
    for name in ("fine-grained", "bottleneck, r 1/4"):
        layer = build(models()[name], seed=1).blocks[0].ffn
        assert isinstance(layer, MoeLayer)
        counter = Counter.on(layer)
        layer(x_BSD.clone().requires_grad_()).out_BSD.square().sum().backward()
        counted[name] = {"forward": counter.forward_bytes, "backward": counter.backward_bytes}
    plain, narrow = counted.values()
    worst = max(abs(narrow[way] / plain[way] - 0.25) for way in plain)
    return Measurement(worst, (worst, worst), None, {"bytes": counted})


MEASURES: dict[Claim, Measure] = {
    LEDGER: measure_ledger,
    SPEED: measure_speed,
    EVENTS: measure_events,
    QUALITY: measure_quality,
    LARGE: measure_large,
    BYTES: measure_bytes,
}
