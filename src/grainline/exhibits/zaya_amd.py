"""ZAYA1 (arXiv 2511.17127): compressed convolutional attention, an MLP router with a stream, and sizing rules.

Its benchmarks are of models of billions of parameters and trillions of tokens, on 1,024 GPUs; none of that is measured
here. What is: that these blocks are the published ones, what they keep, whether they do harm or good in small models,
and that the rules give the figures they should. The report's own rules and its balancer's law could not be read; the
rules are those of the co-design line (arXiv 2401.14489), the balancer is Ling 2.0's.
"""

from __future__ import annotations

from collections.abc import Mapping

from grainline.documents import Attention, ModelConfig, Moe, Rope
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import ratio
from grainline.exhibits.small_models import draw_curves, ends, peak_rate, recipe, runs_of, small_model
from grainline.exhibits.training import Run
from grainline.exhibits.zaya_parity import errors, kept
from grainline.plan.sizing import Line, quantised, widest_for_nothing

SEEDS = (0, 1, 2)
LAYERS, SIZE, HEAD = 4, 128, 16
SHARE = 0.5  # of the usual number of steps: four models over three seeds are long enough

PARITY = Claim(
    name="zaya-amd.parity",
    text="These blocks are ZAYA1's: equal to `zaya` in transformers, by its authors' hand, on random weights.",
    quantity="largest error of logits, and of every gradient, against its largest value; float32",
    expected=0.0,
    margin=1e-5,
    better="lower",
    baseline="transformers' ZayaForCausalLM, weights through a folder",
    seeds=SEEDS,
    how="real",
    quick_decides=True,
)
COUNTS = Claim(
    name="zaya-amd.counts",
    text="ZAYA1 has 8.3B parameters, of which 760M are active.",
    quantity="larger relative difference of both counts without embeddings from those printed",
    expected=0.0,
    margin=0.01,  # half of the last digit of what is printed is 0.6 %; 760M is rounded to tens of millions
    better="lower",
    baseline="the printed figures; the model itself has as many as are counted",
    seeds=(0,),
    how="real",
    quick_decides=True,
)
CACHE = Claim(
    name="zaya-amd.cache",
    text="The cache of CCGQA is an eighth of that of multi-head attention (arXiv 2510.04476, abstract).",
    quantity="bytes that a further token adds with multi-head attention / with CCGQA, measured",
    expected=8.0,
    margin=0.0,
    better="higher",
    baseline="multi-head attention in the whole width, D = 16 heads, generating the same tokens",
    seeds=(0,),
    how="real",
    quick_decides=True,
)
SIZES = Claim(
    name="zaya-amd.sizes",
    text=(
        "Rules from measured latency, bandwidth and tiles give 13.5 MB for a bucket, 0.842 and 1.0 for two widths of a "
        "product on MI300X, 19 % more columns for nothing, and 2.58, 2.25 and 2.14 times the products of CCGQA for "
        "multi-head attention at 4K, 16K and 32K."
    ),
    quantity="largest relative difference from these figures",
    expected=0.0,
    margin=0.005,  # half of the last digit of the coarsest
    better="lower",
    baseline="the figures worked out by hand from α 30 µs, B 50 GB/s, η 0.9, 256 × 256 tiles on 304 units",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
ATTENTION = Claim(
    name="zaya-amd.attention",
    text="CCGQA, with an eighth of its cache, is as good as multi-head attention (arXiv 2510.04476, abstract).",
    quantity="held-out bits per byte with CCGQA / with multi-head attention, after equal tokens",
    expected=1.0,
    margin=0.01,
    better="lower",
    baseline="the same model with multi-head attention in the whole width, RMSNorm on q and k, eight times the cache",
    seeds=SEEDS,
    how="real",
)
CONVOLUTIONS = Claim(
    name="zaya-amd.convolutions",
    text="At equal cache CCGQA is better than grouped-query attention (arXiv 2510.04476, abstract).",
    quantity="held-out bits per byte with CCGQA / with grouped-query attention, after equal tokens",
    expected=0.99,
    margin=0.01,  # at this scale the claim is one of sign
    better="lower",
    baseline="grouped-query attention of the same heads, cache and, but for the convolutions, parameters",
    seeds=SEEDS,
    how="real",
)
ROUTER = Claim(
    name="zaya-amd.router",
    text=(
        "ZAYA1 has an MLP router that averages over depth where others have a linear one. What it gains could not be "
        "read in the report; that it gains is taken from its being there."
    ),
    quantity="held-out bits per byte with ZAYA1's router / with a linear one, after equal tokens",
    expected=0.99,
    margin=0.01,  # at this scale the claim is one of sign
    better="lower",
    baseline="a linear softmax router: the same experts and skip class, top-1, balanced by the same bias and loss",
    seeds=SEEDS,
    how="real",
)


def measure_parity(scale: Scale) -> Measurement:
    """A new random model for each seed."""
    found = {seed: errors(seed, scale.folder) for seed in scale.seeds}
    worst = max(max(of.values()) for of in found.values())
    for seed, of in found.items():
        scale.tell(f"seed {seed}: {', '.join(f'{name} {value:.2g}' for name, value in of.items())}")
    return Measurement(worst, (worst, worst), None, {"errors": found})


def zaya1() -> ModelConfig:
    """As published (model card, and arXiv 2511.17127)."""
    return ModelConfig(
        family="zaya",
        vocab_size=262_272,
        hidden_size=2048,
        layers=40,
        ffn_hidden=2048,
        max_positions=131_072,
        norm_eps=1e-5,
        tie_embeddings=True,
        residual_scaling=True,
        attention=Attention(kind="cca", heads=8, kv_heads=2, head_dim=128, rope=Rope(theta=5e6, fraction=0.5)),
        moe=_experts(16, 2048, 256),
    )


def _experts(experts: int, hidden: int, router_hidden: int) -> Moe:
    return Moe(
        experts=experts,
        top_k=1,
        expert_hidden=hidden,
        zero=1,
        router="depth-averaged",
        router_hidden=router_hidden,
        bias_balanced=True,
        normalize=False,
    )


def measure_counts(scale: Scale) -> Measurement:
    """By closed form, and by the model's own tensors, without memory for them."""
    import torch

    from grainline.models.count import parameters
    from grainline.models.model import Model

    count = parameters(zaya1())
    with torch.device("meta"):
        held = sum(p.numel() for p in Model(zaya1()).parameters())
    if held != count.total:
        raise AssertionError(f"the model has {held} parameters, and {count.total} are counted")
    found = {"total": count.total - count.embedding, "active": count.active - count.embedding}
    worst = max(abs(found[name] / printed - 1) for name, printed in (("total", 8.3e9), ("active", 760e6)))
    scale.tell(f"{found['total'] / 1e9:.3f}B, of which {found['active'] / 1e6:.1f}M are active")
    return Measurement(worst, (worst, worst), None, {"parameters": found})


def measure_cache(scale: Scale) -> Measurement:
    """Both models generate, and what their states hold is weighed at several lengths."""
    lengths = scale.pick(full=(1, 16, 256, 1024, 4096), quick=(1, 16, 64))
    held = {name: [kept(attention, SIZE, n) for n in lengths] for name, attention in attentions().items()}
    for name, of in held.items():
        scale.tell(f"{name}: {of[-1].cache} bytes of cache and {of[-1].tail} of tails after {lengths[-1]} tokens")
    added = {name: [state.cache / n for state, n in zip(of, lengths, strict=True)] for name, of in held.items()}
    ratios = [a / b for a, b in zip(added["multi-head"], added["CCGQA"], strict=True)]
    with drawing() as (figure, (axes,)):
        for i, (name, of) in enumerate(held.items()):
            axes.plot(lengths, [s.cache + s.tail for s in of], color=colour(i), marker=MARKERS[i], label=name)
        axes.set(
            xscale="log", yscale="log", xlabel="tokens", ylabel="bytes", title="State of one layer, tails included"
        )
        axes.legend()
        picture = svg(figure, CACHE.name, f"Bytes of state by tokens. {CACHE.quantity}.")
    details = {"lengths": lengths, "bytes": {name: [(s.cache, s.tail) for s in of] for name, of in held.items()}}
    return Measurement(min(ratios), (min(ratios), max(ratios)), picture, details)


def worked_out() -> dict[str, tuple[float, float]]:
    """By name: as computed, and as it should be."""
    from grainline.models.count import attention_flops_per_token, attention_matrices

    line = Line(30e-6, 50e9)
    narrow, wide = (quantised(8192, n, 304).efficiency for n in (4096, 4864))
    compressed = zaya1()
    whole = Attention(heads=16, head_dim=128)
    multi_head = compressed.model_copy(update={"attention": whole})

    def products(config: ModelConfig, context: int) -> float:
        return attention_matrices(config) + attention_flops_per_token(config, context / 2) / 2

    found = {
        "bucket, MB": (line.bucket_bytes(0.9) / 1e6, 13.5),
        "8192 × 4096": (narrow, 0.842),
        "8192 × 4864": (wide, 1.0),
        "columns for nothing": (widest_for_nothing(8192, 4096, 304) / 4096, 1.19),
    }
    for thousands, printed in ((4, 2.58), (16, 2.25), (32, 2.14)):
        context = thousands * 1024
        found[f"products at {thousands}K"] = products(multi_head, context) / products(compressed, context), printed
    return found


def measure_sizes(scale: Scale) -> Measurement:
    """Every figure is told; the efficiency of other widths is drawn beside the two."""
    found = worked_out()
    for name, (value, printed) in found.items():
        scale.tell(f"{name}: {value:.4g}, worked out by hand {printed:g}")
    worst = max(abs(value / printed - 1) for value, printed in found.values())
    columns = range(256, 10_241, 256)
    with drawing() as (figure, (axes,)):
        axes.plot(columns, [quantised(8192, n, 304).efficiency for n in columns], color=colour(0), marker="o", ms=3)
        for i, n in enumerate((4096, 4864), 1):
            axes.plot([n], [quantised(8192, n, 304).efficiency], color=colour(i), marker=MARKERS[i], ms=8, label=f"{n}")
        axes.set(xlabel="columns of a product of 8,192 rows", ylabel="efficiency", title="256 × 256 tiles on 304 units")
        axes.legend()
        picture = svg(figure, SIZES.name, f"Efficiency of products by columns, in tiles and waves. {SIZES.quantity}.")
    return Measurement(worst, (worst, worst), picture, {"computed and by hand": found})


def attentions() -> Mapping[str, Attention]:
    """Three of one model: CCGQA in half the width, what it has an eighth of the cache of, and what it has the heads of.

    Keys begin at the length that QK-norm gives them, so that all three start alike; the published start is 0.
    """
    heads = SIZE // HEAD
    rope = Rope(fraction=0.5)
    narrow = {"heads": heads // 2, "kv_heads": heads // 8, "head_dim": HEAD, "rope": rope}
    return {
        "CCGQA": Attention(kind="cca", key_temperature=1.0, **narrow),
        "multi-head": Attention(heads=heads, head_dim=HEAD, qk_norm=True, rope=rope),
        "grouped-query": Attention(qk_norm=True, **narrow),
    }


def models() -> Mapping[str, ModelConfig]:
    """ZAYA1 in small, with other attentions, and with a linear router."""
    moe = _experts(8, SIZE, SIZE // 8)
    linear = moe.model_copy(update={"router": "softmax-topk", "router_hidden": None})

    def model(attention: str, moe: Moe) -> ModelConfig:
        plain = small_model(LAYERS, SIZE, moe)
        return plain.model_copy(update={"attention": attentions()[attention], "residual_scaling": True})

    return {**{name: model(name, moe) for name in attentions()}, "linear router": model("CCGQA", linear)}


def trained_runs(scale: Scale) -> dict[str, list[Run]]:
    """All models over the seeds, at one rate."""
    peak = peak_rate(scale, models()["multi-head"])
    recipes = {
        name: [recipe(name, config, scale, seed, peak, SHARE) for seed in scale.seeds]
        for name, config in models().items()
    }
    return runs_of(recipes, scale)


def compared(claim: Claim, against: str) -> Measure:
    """ZAYA1 in small / one of the others."""

    def measure(scale: Scale) -> Measurement:
        runs = trained_runs(scale)
        found = ratio(ends(runs["CCGQA"]), ends(runs[against]))
        shown = {name: runs[name] for name in ("CCGQA", against)}
        picture = draw_curves(claim, shown, dict.fromkeys(shown, 1.0), "million tokens")
        details = {"bits_per_byte": {name: ends(of) for name, of in runs.items()}}
        return Measurement(found.value, found.error_bar, picture, details)

    return measure


MEASURES: dict[Claim, Measure] = {
    PARITY: measure_parity,
    COUNTS: measure_counts,
    CACHE: measure_cache,
    SIZES: measure_sizes,
    ATTENTION: compared(ATTENTION, "multi-head"),
    CONVOLUTIONS: compared(CONVOLUTIONS, "grouped-query"),
    ROUTER: compared(ROUTER, "linear router"),
}
