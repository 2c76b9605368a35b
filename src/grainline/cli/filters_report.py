"""What `grainline plan filters` says: tables, figures, and the same as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grainline._report import Report, Section, Table

if TYPE_CHECKING:
    from grainline.documents.filters import Filters
    from grainline.plan.filters.alternatives import Compared
    from grainline.plan.filters.flow import Flow, Step
    from grainline.plan.filters.optimise import Split
    from grainline.plan.filters.queueing import Queued

BARS = 12  # parameters that are drawn
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def si(value: float, unit: str) -> str:
    """Three digits with a prefix: 51.6 MW."""
    if not value:
        return f"0 {unit}"
    factor, prefix = next((pair for pair in PREFIXES if abs(value) >= pair[0]), PREFIXES[-1])
    return f"{value / factor:.3g} {prefix}{unit}"


def report(
    filters: Filters,
    one: Compared,
    combined: Sequence[Compared],
    worth: Mapping[str, float],
    split: Split | None,
    waiting: Queued | None,
    *,
    draw: bool,
) -> Report:
    """All that was asked for; figures only where a page is written."""
    flow = one.flow
    sections = [_stages(filters, flow, draw)]
    if combined:
        sections.append(_compared(combined, draw))
    if worth:
        sections.append(_worth(worth, draw))
    if split is not None:
        sections.append(_split(flow, split))
    if waiting is not None:
        sections.append(_waiting(waiting))
    of = flow.contingency
    lead = (
        f"{filters.name or 'The pipeline'}{' with ' + one.title if one.names else ''}: of "
        f"{flow.relevant_hz:,.4g} relevant messages a second {of.recall:.1%} pass, and {of.precision:.1%} of what "
        f"passes is relevant (F1 {of.f1:.4f}). It takes {si(flow.watts, 'W')}: {flow.productivity * 1e3:.3g} relevant "
        "samples per kJ."
    )
    if one.dollars_per_hour:
        lead += f" {one.dollars_per_hour:,.2f} dollars an hour."
    return Report(f"Filters: {filters.name or 'a pipeline'}", lead, tuple(sections))


def _stages(filters: Filters, flow: Flow, draw: bool) -> Section:
    columns = (
        "stage",
        "in",
        "passes",
        "false pass",
        "true pass",
        "threshold",
        "message",
        "power",
        "link",
        "on the link",
    )
    rows = []
    for name in filters.order():
        step = flow.steps[name]
        cut = step.cut
        rows.append(
            (
                name,
                si(step.rates.total, "Hz"),
                f"{1 - cut.irrelevant:.4g}",
                f"{1 - cut.relevant:.4g}",
                "" if cut.threshold is None else f"{cut.threshold:.4g}",
                si(step.bytes, "B"),
                si(step.watts, "W"),
                si(step.link_watts, "W"),
            )
        )
    sources = sum(flow.steps[name].link_watts for name in filters.sources)
    total = ("sources", "", "", "", "", "", "0 W", si(sources, "W"))
    words = [
        "Shares that pass are of irrelevant messages (false) and of relevant ones (true). Scores of stages are taken "
        "as independent given what a message is.",
        f"A message that gets to the end takes {si(flow.joules_per_message(filters.end), 'J')} on its way, and "
        f"{si(flow.watts / flow.contingency.passed.total, 'J')} with its share of those that don't.",
    ]
    for name in filters.stages:
        if flow.steps[name].work.beyond > 1:
            words.append(
                f"The work of {name} lies {flow.steps[name].work.beyond:.2f} times beyond the sizes of its file."
            )
    if filters.technology.growth_per_year and flow.scale != 1:
        words.append(f"Energies are of {filters.technology.year}: divided by {flow.scale:.4g}.")
    return Section("Stages", words, Table(columns, (*rows, total)), _power(filters, flow) if draw else "")


def _power(filters: Filters, flow: Flow) -> str:
    from grainline.exhibits.figure import colour, drawing, svg

    names = [
        name for name in (*filters.sources, *filters.order()) if flow.steps[name].watts + flow.steps[name].link_watts
    ]
    names.sort(key=lambda name: flow.steps[name].watts + flow.steps[name].link_watts)
    names = names[-BARS:]
    with drawing(height=0.6 + 0.25 * len(names)) as (figure, (axes,)):
        for i, (label, key) in enumerate((("stage", "watts"), ("link out of it", "link_watts"))):
            values = [getattr(flow.steps[name], key) for name in names]
            left = [flow.steps[name].watts for name in names] if i else None
            axes.barh(names, values, left=left, color=colour(i), label=label)
        axes.set(xlabel="watts", xscale="log", title="Power, of what takes most")
        axes.legend(loc="lower right")
        return svg(figure, "filters.power", "Power by stage and link.")


def _compared(combined: Sequence[Compared], draw: bool) -> Section:
    from grainline.plan.filters.alternatives import unbeaten

    base, best = combined[0].flow, unbeaten(combined)
    rows = [
        (
            each.title,
            si(each.flow.watts, "W"),
            f"{each.flow.watts / base.watts - 1:+.1%}" if base.watts else "",
            f"{each.flow.contingency.recall:.4f}",
            f"{each.flow.contingency.f1:.4f}",
            f"{each.flow.productivity * 1e3:.4f}",
            f"{each.flow.productivity / base.productivity:.2f}×" if base.productivity else "",
            f"{each.dollars_per_hour:,.2f}",
            "yes" if each in best else "",
        )
        for each in combined
    ]
    columns = ("", "power", "of it", "recall", "F1", "samples/kJ", "of it", "$/h", "unbeaten")
    words = [
        "Unbeaten: no other takes less power at as good an F1. The relevant rate is that of the baseline throughout."
    ]
    strong = combined.index(max(combined, key=lambda each: each.flow.productivity))
    picture = _pareto(combined, best) if draw else ""
    return Section("Alternatives", words, Table(columns, tuple(rows), strong=strong), picture)


def _pareto(combined: Sequence[Compared], best: Sequence[Compared]) -> str:
    from grainline.exhibits.figure import MARKERS, MUTED, colour, drawing, svg

    with drawing(height=3.6) as (figure, (axes,)):
        axes.plot(
            [one.flow.watts for one in best],
            [one.flow.contingency.f1 for one in best],
            color=MUTED[0],
            drawstyle="steps-post",
            label="unbeaten",
        )
        for i, one in enumerate(combined):
            again = i >= len(MARKERS)
            axes.plot(
                one.flow.watts,
                one.flow.contingency.f1,
                color=colour(i),
                marker=MARKERS[i % len(MARKERS)],
                mfc="none" if again else None,
                ls="",
                label=one.title,
            )
        axes.set(xlabel="power, watts", ylabel="F1", title="Quality against power", ylim=(0, 1.02), xlim=(0, None))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return svg(figure, "filters.pareto", "F1 against power of every alternative; those that no other beats.")


def _worth(worth: Mapping[str, float], draw: bool) -> Section:
    top = list(worth.items())[:BARS]
    rows = tuple((key, f"{value:+.3f}") for key, value in top)
    words = ["Per cent by which relevant samples per joule change when a number in the file grows by one per cent."]
    picture = ""
    if draw:
        from grainline.exhibits.figure import colour, drawing, svg

        with drawing(height=0.6 + 0.25 * len(top)) as (figure, (axes,)):
            keys, values = [key for key, _ in top[::-1]], [value for _, value in top[::-1]]
            axes.barh(keys, values, color=[colour(0 if value > 0 else 1) for value in values])
            axes.set(xlabel="∂ log productivity / ∂ log parameter", title="What each number is worth")
            picture = svg(figure, "filters.worth", "Elasticities of productivity, the largest first.")
    return Section("What each number is worth", words, Table(("key", "elasticity"), rows), picture)


def _split(flow: Flow, split: Split) -> Section:
    rows = (
        ("now", "", "", si(flow.watts, "W"), f"{flow.contingency.recall:.4f}"),
        (
            "least power",
            f"{split.early:.4g}",
            f"{split.late:.4g}",
            si(split.flow.watts, "W"),
            f"{split.flow.contingency.recall:.4f}",
        ),
    )
    words = ["The product of both reductions, and so what passes at the end, stays."]
    return Section("Reductions", words, Table(("", "early", "late", "power", "recall"), rows, strong=1))


def _waiting(waiting: Queued) -> Section:
    import numpy as np

    rows = tuple(
        (name, str(count), f"{waiting.utilisation[name]:.1%}", si(waiting.wait_seconds.get(name, 0.0), "s"))
        for name, count in waiting.devices.items()
    )
    median, late = np.quantile(waiting.seconds, [0.5, 0.99])
    words = [
        f"{len(waiting.seconds):,} messages that arrive at random, through the simulator. Half are through after "
        f"{si(float(median), 's')}, 99 % after {si(float(late), 's')}."
    ]
    return Section("Queues", words, Table(("stage", "devices", "busy", "mean wait"), rows))


def as_json(
    one: Compared,
    combined: Sequence[Compared],
    worth: Mapping[str, float],
    split: Split | None,
    waiting: Queued | None,
) -> dict[str, Any]:
    """The same as plain values, in SI units."""
    found: dict[str, Any] = {**_values(one), "stages": {name: _step(step) for name, step in one.flow.steps.items()}}
    if combined:
        from grainline.plan.filters.alternatives import unbeaten

        best = unbeaten(combined)
        found["compared"] = [{**_values(each), "unbeaten": each in best} for each in combined]
    found["elasticities"] = dict(worth)
    if split is not None:
        values = {"early": split.early, "late": split.late, "watts": split.flow.watts}
        found["optimised"] = {**values, "recall": split.flow.contingency.recall}
    if waiting is not None:
        found["queues"] = {
            "devices": waiting.devices,
            "utilisation": waiting.utilisation,
            "wait_seconds": waiting.wait_seconds,
        }
    return found


def _values(one: Compared) -> dict[str, Any]:
    flow, of = one.flow, one.flow.contingency
    return {
        "alternatives": list(one.names),
        "watts": flow.watts,
        "link_watts": flow.link_watts,
        "dollars_per_hour": one.dollars_per_hour,
        "relevant_hz": flow.relevant_hz,
        "precision": of.precision,
        "recall": of.recall,
        "f1": of.f1,
        "relevant_per_joule": flow.productivity,
        "passed_hz": of.passed._asdict(),
        "rejected_hz": of.rejected._asdict(),
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "to": step.to,
        "in_hz": step.rates._asdict(),
        "passed_hz": step.passed._asdict(),
        "bytes": step.bytes,
        "sent_bytes_per_second": step.sent_bytes_per_second,
        "threshold": step.cut.threshold,
        "rejects": {"irrelevant": step.cut.irrelevant, "relevant": step.cut.relevant},
        "work_units": step.work.units,
        "devices": step.devices,
        "watts": step.watts,
        "link_watts": step.link_watts,
    }
