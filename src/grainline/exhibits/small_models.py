"""Small expert models on the built-in corpus, all trained alike but for what an exhibit compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grainline.documents import Attention, ModelConfig, Moe, Recipe
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.frame import Claim, Scale
from grainline.exhibits.training import Run, trained

VOCABULARY, SEQUENCE = 1024, 128  # tokens, and tokens per sequence
RATE = 0.25  # times the learning rate of the Ling laws: the best of those tried for sparse models (exhibit ling2)
AUXILIARY = 0.01  # coefficient of the balancing loss, which is 1 per token and layer where loads are as wanted


def small_model(layers: int, size: int, moe: Moe) -> ModelConfig:
    """All layers sparse, heads of 32 dims."""
    return ModelConfig(
        family="grainline",
        vocab_size=VOCABULARY,
        hidden_size=size,
        layers=layers,
        ffn_hidden=4 * size,
        max_positions=SEQUENCE,
        init_std=0.27 * size**-0.5,  # the dial's
        attention=Attention(heads=size // 32, head_dim=32, qk_norm=True),
        moe=moe,
    )


def recipe(name: str, config: ModelConfig, scale: Scale, seed: int, peak: float, share: float = 1.0) -> Recipe:
    """Of one run over this share of the full number of steps, balanced by a loss where the model has no bias for it."""
    steps, batch = length(scale)
    steps = round(share * steps)
    return Recipe.parse(
        {
            "name": f"{name}, seed {seed}",
            "seed": seed,
            "model": {"config": config.tables()},
            "data": {
                "vocab_size": VOCABULARY,
                "sequence_length": SEQUENCE,
                "validation_fraction": 0.03,
                "max_bytes": scale.pick(full=10_000_000, quick=400_000),
            },
            "training": {"steps": steps, "batch_tokens": batch},
            "learning_rate": {"peak": peak, "warmup_steps": steps // 10},
            "loss": {"balance_loss": 0.0 if config.moe is not None and config.moe.bias_balanced else AUXILIARY},
            "precision": {"compute": "float32"},
            "validation": {"every": max(1, steps // 10), "max_sequences": scale.pick(full=400, quick=8)},
            "checkpoint": {"every": steps},
        },
        where=name,
    )


def length(scale: Scale) -> tuple[int, int]:
    """Steps, and tokens of each."""
    return scale.pick(full=(600, 2048), quick=(6, 512))


def peak_rate(scale: Scale, config: ModelConfig) -> float:
    """Of all runs of an exhibit: by the compute of its baseline."""
    from grainline.models.count import flops_per_token
    from grainline.plan.scaling_laws import learning_rate

    steps, batch = length(scale)
    return RATE * learning_rate(flops_per_token(config, SEQUENCE) * steps * batch)


def runs_of(recipes: Mapping[str, Sequence[Recipe]], scale: Scale) -> dict[str, list[Run]]:
    """The runs of lists of recipes, all trained together."""
    runs = iter(trained([each for of in recipes.values() for each in of], scale))
    return {name: [next(runs) for _ in of] for name, of in recipes.items()}


def ends(runs: Sequence[Run]) -> list[float]:
    """Held-out bits per byte at the end of each."""
    return [each.bits_per_byte for each in runs]


def draw_curves(claim: Claim, runs: Mapping[str, Sequence[Run]], cost: Mapping[str, float], label: str) -> str:
    """Held-out bits per byte, a line for each seed, over what was spent: `cost` of each million tokens."""
    with drawing() as (figure, (axes,)):
        for i, (name, of) in enumerate(runs.items()):
            for each in of:
                tokens, values = each.curve()
                spent = [cost[name] * t / 1e6 for t in tokens]
                (line,) = axes.plot(spent, values, color=colour(i), marker=MARKERS[i % len(MARKERS)], ms=3, lw=1)
                line.set_label(name if each is of[0] else "")
        finals = [value for of in runs.values() for each in of for value in each.curve()[1][-1:]]
        axes.set_ylim(min(finals) * 0.98, max(finals) * 1.15)
        axes.set(xlabel=label, ylabel="bits per byte", title="Held-out text; each seed")
        axes.legend()
        return svg(figure, claim.name, f"Held-out bits per byte over training. {claim.quantity}.")
