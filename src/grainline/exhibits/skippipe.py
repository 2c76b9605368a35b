"""SkipPipe (arXiv 2502.19913): partial, reordered pipelines over slow links, simulated; what skipping does to models.

The simulated setting is the authors': 24 layers in six stages, paths of four, twenty nodes as 5, 3, 3, 3, 3, 3 with
three slots each, in twelve cities (`skippipe_cities`). The measure is their chart of seconds per iteration, read off
to about a second: full pipelines 141.5, random skipping 71.5, SkipPipe without regard to collisions 59.5, SkipPipe
52.5. Their own simulator has 79.9, 48.9, 35.4 and 33.3 s, for nodes four times as fast. Full pipelines hold nine
micro-batches at once and partial ones fifteen, so 45 of them are five full rounds of the one and three of the other:
neither is favoured.

The models that are trained (`skippipe_training`) are hundreds of times smaller than theirs and see little text: what
they say of quality they say of themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import exp

from grainline.exhibits import skippipe_cities as cities
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, Scale
from grainline.exhibits.harness import estimate
from grainline.exhibits.skippipe_training import KINDS, Trained, trained
from grainline.plan.skip.plan import METHODS, SkipPlan, plan_by
from grainline.schedule import Kind, add_messages, add_update, lower, simulate
from grainline.schedule.members.partial import LOOKAHEAD

MICROBATCHES = 45
PATH_LENGTH = 4
CHART = {"full": 141.5, "random": 71.5, "unaware": 59.5, "aware": 52.5}  # seconds per iteration, from the repository
THEIR_SIMULATION = {"full": 79.94, "random": 48.92, "unaware": 35.43, "aware": 33.31}  # of their published plan
NAMES = {
    "full": "full pipelines",
    "random": "random paths",
    "unaware": "SkipPipe, no TC2",
    "aware": "SkipPipe",
    "aware, not refined": "SkipPipe, search alone",
    "full, routes chosen": "full, routes chosen",
}
SEEDS = (0, 1, 2)
SETTING = "20 nodes in 12 cities, 6 stages, paths of 4, 3 slots, 45 micro-batches"

STEP = Claim(
    name="skippipe.step",
    text="Partial, reordered pipelines take up to 55 % less time for an iteration than full ones.",
    quantity=f"simulated seconds of a step, SkipPipe / full pipelines: {SETTING}",
    expected=0.45,
    margin=0.05,
    better="lower",
    baseline="DT-FM: the same placement, every micro-batch through all stages of its pipeline",
    seeds=SEEDS,
    how="simulated",
)
SKIPPING = Claim(
    name="skippipe.skipping",
    text="Skipping a third of the stages at random halves an iteration: 71.5 s and 141.5 s (chart).",
    quantity=f"simulated seconds of a step, random paths / full pipelines: {SETTING}",
    expected=CHART["random"] / CHART["full"],
    margin=0.1,
    better="lower",
    baseline="DT-FM: the same placement, every micro-batch through all stages of its pipeline",
    seeds=SEEDS,
    how="simulated",
)
PATHS = Claim(
    name="skippipe.paths",
    text="Choosing the paths takes another quarter off what random ones need: 52.5 s and 71.5 s (chart).",
    quantity=f"simulated seconds of a step, SkipPipe / random paths: {SETTING}",
    expected=CHART["aware"] / CHART["random"],
    margin=0.05,
    better="lower",
    baseline="random paths within the same constraints, the same placement",
    seeds=SEEDS,
    how="simulated",
)
COLLISIONS = Claim(
    name="skippipe.collisions",
    text="Regard to collisions takes 12 % off what chosen paths need: 52.5 s and 59.5 s (chart).",
    quantity=f"simulated seconds of a step, SkipPipe / SkipPipe without TC2: {SETTING}",
    expected=CHART["aware"] / CHART["unaware"],
    margin=0.03,
    better="lower",
    baseline="the same search without TC2, the same placement",
    seeds=SEEDS,
    how="simulated",
)
CONVERGENCE = Claim(
    name="skippipe.convergence",
    text="Training along partial paths preserves convergence at equal numbers of micro-batches.",
    quantity="held-out loss of the whole model, a third of the stages skipped in training / none",
    expected=1.0,
    margin=0.02,
    better="lower",
    baseline="the same model trained on the same sequences along full paths: half as much compute again",
    seeds=(0, 1),
    how="real",
)
COMPUTE = Claim(
    name="skippipe.compute",
    text="At equal FLOPs a model trained along partial paths, on half as much text again, is no worse.",
    quantity="held-out loss of the whole model, a third of the stages skipped in training / none, at equal FLOPs",
    expected=1.0,
    margin=0.01,
    better="lower",
    baseline="the same model trained along full paths",
    seeds=(0, 1),
    how="real",
)
DROPPED = Claim(
    name="skippipe.dropped",
    text="With half of the model left out at inference, perplexity rises by 7 % only.",
    quantity="held-out perplexity without three of the five later stages / with all, mean over all ten choices",
    expected=1.07,
    margin=0.05,
    better="lower",
    baseline="the same model, trained along partial paths, whole; one trained along full paths is told beside it",
    seeds=(0, 1),
    how="real",
)
RESISTANCE = Claim(
    name="skippipe.resistance",
    text="Partial training makes a model resistant to left-out layers: it loses several times less than one without.",
    quantity="nats lost without two of the five later stages, trained along partial paths / along full ones",
    expected=0.33,
    margin=0.17,
    better="lower",
    baseline="the same model trained along full paths on the same sequences",
    seeds=(0, 1),
    how="real",
)
FIRST = Claim(
    name="skippipe.first",
    text="The first stage must never be skipped (CC1): early layers matter most.",
    quantity="held-out loss of the whole model, trained with the first stage on every path / skipped like the others",
    expected=0.99,
    margin=0.005,
    better="lower",
    baseline="paths of as many stages on average, the first of them skipped as often as the rest",
    seeds=(0, 1),
    how="real",
)


@dataclass(frozen=True)
class Steps:
    """Plans of one placement, by method, in the simulator's setting."""

    plans: Mapping[str, SkipPlan]

    def ratio(self, method: str, baseline: str) -> float:
        """Of seconds of a step."""
        return self.plans[method].expected_seconds / self.plans[baseline].expected_seconds


@cache
def steps(
    seed: int, quick: bool, microbatches: int = MICROBATCHES, layer_seconds: float = cities.LAYER_SECONDS
) -> Steps:
    """All methods; SkipPipe before its routes are refined; full pipelines whose micro-batches choose their nodes."""
    stages = cities.placed(seed, 40 if quick else 3000)
    expansions, tries = (200, 200) if quick else (5000, 20_000)  # not the clock: figures don't depend on the machine

    def by(method: str, path_length: int, tries: int = tries) -> SkipPlan:
        problem = cities.problem(stages, path_length, layer_seconds)
        setting = cities.setting(problem)
        return plan_by(
            method,
            problem,
            microbatches,
            setting=setting,
            budget_s=3600.0,
            expansions=expansions,
            tries=tries,
            seed=seed,
        )

    plans = {method: by(method, PATH_LENGTH) for method in METHODS}
    alone, full = by("aware", PATH_LENGTH, 0), by("aware", len(stages))
    return Steps(plans | {"aware, not refined": alone, "full, routes chosen": full})


def with_all_reduce(plan: SkipPlan) -> float:
    """Seconds of a step at whose end every stage's gradients are summed over its nodes."""
    setting = cities.setting(plan.problem)
    costs = replace(setting.costs, collective_bytes={Kind.REDUCE: cities.GRADIENT_BYTES})
    schedule = add_update(add_messages(plan.schedule, LOOKAHEAD), range(plan.problem.head))
    return simulate(lower(schedule, costs, setting.network)).makespan


def measure(claim: Claim, method: str, baseline: str, scale: Scale) -> Measurement:
    """A ratio over the seeds of placement and search, with everything that was simulated beside it."""
    found = [steps(seed, scale.quick) for seed in scale.seeds]
    for seed, one in zip(scale.seeds, found, strict=True):
        for name in NAMES if claim is STEP else (baseline, method):
            plan = one.plans[name]
            scale.tell(f"seed {seed}, {NAMES[name]}: {plan.expected_seconds:.1f} s ({one.ratio(name, 'full'):.2f})")
    over = estimate([one.ratio(method, baseline) for one in found])
    return Measurement(over.value, over.error_bar, _bars(claim, found), _details(found, scale))


def _details(found: list[Steps], scale: Scale) -> dict[str, object]:
    rows: dict[str, object] = {
        "seconds": {name: [one.plans[name].expected_seconds for one in found] for name in NAMES},
        "seconds with all-reduce": {name: [with_all_reduce(one.plans[name]) for one in found] for name in NAMES},
        "published chart": CHART,
        "published simulation": THEIR_SIMULATION,
        "placement": [one.plans["aware"].placement for one in found],
        "longest walk, and its bound": [
            (answer.longest_seconds, answer.bound_seconds)
            for one in found
            if (answer := one.plans["aware"].answer) is not None
        ],
    }
    if not scale.quick:
        rows["seconds of 30 micro-batches"] = {
            name: [steps(seed, False, 30).plans[name].expected_seconds for seed in scale.seeds] for name in NAMES
        }
        rows["seconds of 30 micro-batches, nodes four times as fast"] = {
            name: [
                steps(seed, False, 30, cities.LAYER_SECONDS / 4).plans[name].expected_seconds for seed in scale.seeds
            ]
            for name in NAMES
        }
    return rows


def _bars(claim: Claim, found: list[Steps]) -> str:
    with drawing() as (figure, (axes,)):
        for i, method in enumerate(NAMES):
            mine = [one.ratio(method, "full") for one in found]
            axes.plot(
                [i] * len(mine), mine, color=colour(0), marker=MARKERS[0], ls="", label="simulated" if not i else None
            )
            if method in CHART:
                published = CHART[method] / CHART["full"]
                label = "published" if not i else None
                axes.plot([i], [published], color=colour(1), marker=MARKERS[1], mfc="none", ls="", label=label)
        axes.set_xticks(range(len(NAMES)), [name.replace(", ", ",\n") for name in NAMES.values()])
        axes.set(ylabel="seconds of a step / full pipelines", title=SETTING, ylim=(0, 1.1))
        axes.legend()
        return svg(figure, claim.name, f"Seconds of a step by method, over those of full pipelines. {claim.text}")


def measure_losses(claim: Claim, value: Callable[[Mapping[str, Trained]], float], scale: Scale) -> Measurement:
    """A figure of trained models over the seeds."""
    runs = [trained(scale, seed) for seed in scale.seeds]
    for seed, models in zip(scale.seeds, runs, strict=True) if claim is CONVERGENCE else ():
        for kind, one in models.items():
            lost = ", ".join(f"{loss - one.losses[0]:+.3f}" for loss in one.losses[1:])
            scale.tell(
                f"seed {seed}, {KINDS[kind].name}: {one.losses[0]:.4f} nats; with 1, 2, 3 stages left out {lost}"
            )
    found = estimate([value(models) for models in runs])
    details = {kind: [models[kind].losses for models in runs] for kind in KINDS}
    return Measurement(found.value, found.error_bar, _losses(claim, runs), {"nats by stages left out": details})


def _losses(claim: Claim, runs: list[Mapping[str, Trained]]) -> str:
    with drawing() as (figure, (axes,)):
        for i, (kind, of) in enumerate(KINDS.items()):
            for models in runs:
                losses = models[kind].losses
                label = of.name if models is runs[0] else None
                # Colours come again after four: the second time lines are dashed and markers hollow.
                again, marker = i >= len(MARKERS), MARKERS[i % len(MARKERS)]
                (line,) = axes.plot(range(len(losses)), losses, color=colour(i), marker=marker, lw=1, label=label)
                if again:
                    line.set(ls="--", mfc="none")
        axes.set(xlabel="later stages left out", ylabel="nats per token", title="Held-out loss; each seed")
        axes.set_xticks(range(4))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return svg(figure, claim.name, f"Held-out loss by stages left out at inference. {claim.text}")


def perplexity_ratio(one: Trained, left_out: int) -> float:
    """Of the mean loss without so many stages over the whole model's."""
    return exp(one.losses[left_out] - one.losses[0])


MEASURES: dict[Claim, Measure] = {
    STEP: lambda scale: measure(STEP, "aware", "full", scale),
    SKIPPING: lambda scale: measure(SKIPPING, "random", "full", scale),
    PATHS: lambda scale: measure(PATHS, "aware", "random", scale),
    COLLISIONS: lambda scale: measure(COLLISIONS, "aware", "unaware", scale),
    CONVERGENCE: lambda scale: measure_losses(
        CONVERGENCE, lambda models: models["third"].losses[0] / models["full"].losses[0], scale
    ),
    COMPUTE: lambda scale: measure_losses(
        COMPUTE, lambda models: models["third, longer"].losses[0] / models["full"].losses[0], scale
    ),
    DROPPED: lambda scale: measure_losses(DROPPED, lambda models: perplexity_ratio(models["third"], 3), scale),
    RESISTANCE: lambda scale: measure_losses(
        RESISTANCE, lambda models: lost(models["third"]) / lost(models["full"]), scale
    ),
    FIRST: lambda scale: measure_losses(
        FIRST, lambda models: models["third"].losses[0] / models["third, any"].losses[0], scale
    ),
}


def lost(one: Trained) -> float:
    """Nats, without two stages."""
    return one.losses[2] - one.losses[0]
