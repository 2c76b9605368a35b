"""HEP-DAQ (arXiv 2407.00123): a staged filter pipeline modelled end to end; CMS's trigger and its alternatives.

The published rows are the stored results of the authors' repository, divided by the technology scale of 2032: then both
figures of the abstract come out. Rows without a boosted level 1 use its stored working point, which is one draw of
10,000 events; rows with the boost use our own draw of a million from the same turn-on curves.
"""

from __future__ import annotations

from pathlib import Path

from grainline.documents.filters import Filters
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.exhibits.find import Measure
from grainline.exhibits.frame import Claim, Measurement, NotRun, Scale
from grainline.exhibits.hep_daq_text import predict_and_run
from grainline.plan.filters.alternatives import Compared, evaluate
from grainline.plan.filters.draws import drawn
from grainline.plan.filters.flow import flow_of
from grainline.plan.filters.optimise import least_power

FOLDER = Path(__file__).parents[3] / "examples" / "filters"
STORED = {"irrelevant_pass": 0.01868, "relevant_pass": 0.4848}
ORACLE = {"threshold": 2.541, "true passes per second": 3375.0, "false passes per second": 4132.0, "F1": 0.4497}
GPU, PIXELS, BOOST = "gpu_hlt", "smart_pixels", "level1_boost"
# Alternatives: megawatts, F1, relevant samples per kJ.
PUBLISHED: dict[tuple[str, ...], tuple[float, float, float]] = {
    (): (51.6, 0.450, 0.065),
    (GPU,): (25.8, 0.451, 0.131),
    (BOOST,): (51.7, 0.840, 0.122),
    (PIXELS,): (40.8, 0.450, 0.083),
    (GPU, BOOST): (25.8, 0.839, 0.244),
    (GPU, PIXELS): (20.5, 0.451, 0.166),
    (GPU, PIXELS, BOOST): (20.4, 0.839, 0.308),
}

TABLE = Claim(
    name="hep-daq.table",
    text="CMS in 2032 takes 51.6 MW; GPUs, smart pixels and a better level 1 save 60 %: 0.308 per kJ instead of 0.065.",
    quantity="largest relative difference of power, F1 and samples per kJ over seven published rows",
    expected=0.0,
    margin=0.01,
    better="lower",
    baseline="the published rows",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
ORACLES = Claim(
    name="hep-daq.oracle",
    text="The level-1 matrix and the Gaussian stage give θ = 2.541, 3,375 true and 4,132 false passes/s, F1 0.4497.",
    quantity="largest relative difference of the four figures",
    expected=0.0,
    margin=0.0002,
    better="lower",
    baseline="the closed form, worked out by hand",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
TRIGGER = Claim(
    name="hep-daq.trigger",
    text="Level 1, built of turn-on curves and rates, passes 48.5 % of relevant events at a reduction of 53.3.",
    quantity="|share of relevant events that pass − 0.4848|",
    expected=0.0,
    margin=0.01,  # two deviations of the reference's 10,000 events
    better="lower",
    baseline="the reference's stored error matrix",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
EARLY = Claim(
    name="hep-daq.early",
    text="A better early stage saves no power at fixed reductions (+0.2 %), but does where they are shared out anew.",
    quantity="least power at the baseline's recall with level 1's boost / without it",
    expected=1.0,
    margin=0.0,
    better="lower",
    baseline="the best split of the same reduction without the boost",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
DRAWS = Claim(
    name="hep-daq.draws",
    text="The flow's contingency is that of labelled events drawn and filtered one by one.",
    quantity="largest distance of the four counts from the flow's, in their own deviations",
    expected=0.0,
    margin=3.0,
    better="lower",
    baseline="ten million events through every threshold",
    seeds=(0,),
    how="simulated",
    quick_decides=True,
)
TEXT = Claim(
    name="hep-daq.text",
    text="Stages profiled apart predict what a three-stage text filter keeps, and its seconds per relevant document.",
    quantity="largest relative error of recall, precision and CPU-seconds per relevant passage",
    expected=0.0,
    margin=0.10,
    better="lower",
    baseline="the filter, run on other passages",
    seeds=(0,),
    how="real",
)


def cms() -> Filters:
    """The example file, with the stored working point as one more alternative; NotRun outside a clone."""
    path = FOLDER / "cms.toml"
    if not path.exists():
        raise NotRun(f"{path} isn't here: it comes with a clone of the repository")
    found = Filters.load(path)
    stored = {"stages.level1.classifier": {"kind": "point", **STORED}}
    return found.model_copy(update={"alternatives": {**found.alternatives, "stored": stored}})


def row(names: tuple[str, ...]) -> Compared:
    """One published row: without the boost, level 1 has its stored working point."""
    return evaluate(cms(), FOLDER, "cms.toml", names if BOOST in names else (*names, "stored"))


def measure_table(scale: Scale) -> Measurement:
    """Every row is told with its deviation."""
    rows, worst = {}, 0.0
    for names, printed in PUBLISHED.items():
        flow = row(names).flow
        found = (flow.watts / 1e6, flow.contingency.f1, flow.productivity * 1e3)
        off = [mine / theirs - 1 for mine, theirs in zip(found, printed, strict=True)]
        worst = max(worst, *map(abs, off))
        title = " + ".join(names) or "baseline"
        rows[title] = {"computed": found, "printed": printed, "off": off}
        told = zip(found, printed, off, strict=True)
        scale.tell(f"{title}: " + ", ".join(f"{a:.4g} ({b:g} printed, {c:+.2%})" for a, b, c in told))
    with drawing(height=3.4) as (figure, (axes,)):
        for i, title in enumerate(rows):
            for which, fill in (("computed", None), ("printed", "none")):
                watts, f1, _ = rows[title][which]
                marker = MARKERS[i % len(MARKERS)]
                label = title if which == "computed" else None
                axes.plot(
                    watts,
                    f1,
                    color=colour(i),
                    marker=marker,
                    mfc=fill,
                    ms=5 if fill is None else 10,
                    ls="",
                    label=label,
                )
        axes.set(
            xlabel="MW", ylabel="F1", title="CMS in 2032: computed (filled) and printed", xlim=(0, None), ylim=(0, 1)
        )
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        picture = svg(figure, TABLE.name, f"F1 against power of seven alternatives. {TABLE.text}")
    return Measurement(worst, (worst, worst), picture, {"rows": rows})


def measure_oracle(scale: Scale) -> Measurement:
    """With the stored matrix at level 1."""
    flow = row(()).flow
    threshold = flow.steps["hlt"].cut.threshold
    assert threshold is not None
    of = flow.contingency
    found = dict(zip(ORACLE, (threshold, of.passed.relevant, of.passed.irrelevant, of.f1), strict=True))
    for name, value in found.items():
        scale.tell(f"{name}: {value:.5g}, by hand {ORACLE[name]:g}")
    worst = max(abs(found[name] / known - 1) for name, known in ORACLE.items())
    return Measurement(worst, (worst, worst), None, {"computed": found, "by hand": ORACLE})


def measure_trigger(scale: Scale) -> Measurement:
    """The curve in the examples' folder."""
    cut = evaluate(cms(), FOLDER, "cms.toml").flow.steps["level1"].cut
    boosted = evaluate(cms(), FOLDER, "cms.toml", (BOOST,)).flow.steps["level1"].cut
    off = abs(1 - cut.relevant - STORED["relevant_pass"])
    scale.tell(
        f"irrelevant {1 - cut.irrelevant:.5f}, relevant {1 - cut.relevant:.4f}; boosted {1 - boosted.relevant:.4f}"
    )
    return Measurement(off, (off, off), None, {"rejects": cut._asdict(), "boosted": boosted._asdict()})


def measure_early(scale: Scale) -> Measurement:
    """Both at the recall of the file's own split."""
    recall = flow_of(cms(), FOLDER).contingency.recall
    found = {}
    for names in ((), (BOOST,)):
        changed = cms().overlaid(names, "cms.toml")
        best = least_power(changed, FOLDER, "cms.toml", ("level1", "hlt"), recall * (1 - 1e-9))
        found["boosted" if names else "plain"] = {"early": best.early, "late": best.late, "watts": best.flow.watts}
        scale.tell(
            f"{' + '.join(names) or 'plain'}: {best.early:.4g} × {best.late:.4g}, {best.flow.watts / 1e6:.2f} MW"
        )
    value = found["boosted"]["watts"] / found["plain"]["watts"]
    return Measurement(value, (value, value), None, {"recall": recall, "splits": found})


def measure_draws(scale: Scale) -> Measurement:
    """Ten million either way; a quick run draws two."""
    messages = scale.pick(full=10_000_000, quick=2_000_000)
    document = cms().overlaid((BOOST,), "cms.toml")
    flow = flow_of(document, FOLDER)
    found = drawn(document, FOLDER, flow, messages)
    total = flow.contingency.passed.total + flow.contingency.rejected.total
    distance = {}
    for decision in ("passed", "rejected"):
        for truth in ("irrelevant", "relevant"):
            share = getattr(getattr(flow.contingency, decision), truth) / total
            count = getattr(getattr(found, decision), truth)
            distance[f"{truth}, {decision}"] = (count - messages * share) / (messages * share * (1 - share)) ** 0.5
    worst = max(map(abs, distance.values()))
    return Measurement(worst, (worst, worst), None, {"messages": messages, "deviations": distance})


def measure_text(scale: Scale) -> Measurement:
    """Predicted on one part of the passages, run on another; correlation of the stages is told beside."""
    flow, ran = predict_and_run(scale.pick(full=24_000, quick=3_000), scale.folder)
    per_relevant = sum(one.devices for one in flow.steps.values()) / flow.contingency.passed.relevant
    pairs = {
        "recall": (flow.contingency.recall, ran.contingency.recall),
        "precision": (flow.contingency.precision, ran.contingency.precision),
        "CPU-seconds per relevant passage": (per_relevant, ran.seconds_per_relevant),
    }
    for name, (predicted, real) in pairs.items():
        scale.tell(f"{name}: {predicted:.4g} predicted, {real:.4g} in the run ({predicted / real - 1:+.1%})")
    scale.tell(f"largest correlation of two stages' scores within a kind: {ran.correlation:.2f}")
    worst = max(abs(predicted / real - 1) for predicted, real in pairs.values())
    details = {"predicted and real": pairs, "correlation": ran.correlation, "passages": ran.messages}
    return Measurement(worst, (worst, worst), None, details)


MEASURES: dict[Claim, Measure] = {
    TABLE: measure_table,
    ORACLES: measure_oracle,
    TRIGGER: measure_trigger,
    EARLY: measure_early,
    DRAWS: measure_draws,
    TEXT: measure_text,
}
