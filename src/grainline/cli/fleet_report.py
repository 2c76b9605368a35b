"""What `grainline plan fleet` says: tables, figures, and the same as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from grainline._report import Report, Section, Table

if TYPE_CHECKING:
    from grainline.documents.traffic import Traffic
    from grainline.plan.fleet.choose import Chosen, FleetPlan, Minimise
    from grainline.plan.fleet.sensitivity import Sweep
    from grainline.plan.fleet.simulate import Played
    from grainline.plan.fleet.solve import Fleet

MOST_BUCKETS = 12  # shown, by their part of the load


def report(
    model: str,
    traffic: Traffic,
    chosen: Chosen,
    played: Played | None,
    sweeps: Sequence[Sweep],
    minimise: Minimise,
    *,
    draw: bool,
) -> Report:
    """All that was found; figures only where a page is written."""
    fleet, unit = chosen.fleet, "$/h" if minimise == "price" else "W"
    lead = f"{named(fleet)} for {traffic.requests_per_second:g} requests a second: {_cost(fleet.cost, unit)}."
    best = chosen.best_alone
    if best is None:
        lead += " No type could serve it all alone."
    elif best > fleet.cost > 0:
        lead += f" The cheapest single type costs {_cost(best, unit)}, {best / fleet.cost - 1:.0%} more."
    else:
        lead += " No mix is cheaper than the best single type."
    sections = [_types(chosen, unit), _alternatives(chosen, unit)]
    if played is not None:
        sections.append(_simulated(chosen, played))
    sections.append(_shares(chosen))
    sections += [_sweep(sweep, unit, draw) for sweep in sweeps]
    sections.append(_origins(chosen, traffic))
    return Report(f"Fleet: {model}", lead, tuple(sections))


def as_json(plan: FleetPlan, chosen: Chosen, played: Played | None, sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """The plan's own tables, and what it is held against."""
    return {
        **plan.tables(),
        "bound": chosen.bound,
        "proven": chosen.fleet.proven,
        "alone": {
            kind.name: None if fleet is None else {"count": fleet.counts[0], "cost": fleet.cost}
            for kind, fleet in zip(chosen.profile.types, chosen.alone, strict=True)
        },
        "greedy": {"counts": chosen.greedy.counts, "cost": chosen.greedy.cost},
        "throughput": dict(zip(chosen.fleet.problem.names, chosen.profile.requests_per_second, strict=True)),
        "simulated": None if played is None else asdict(played),
        "sensitivity": [asdict(sweep) for sweep in sweeps],
    }


def named(fleet: Fleet) -> str:
    """``2 A10G + 1 H100``."""
    return (
        " + ".join(f"{n} {name}" for n, name in zip(fleet.counts, fleet.problem.names, strict=True) if n) or "nothing"
    )


def _cost(value: float, unit: str) -> str:
    return f"{value:,.2f} {unit}" if unit == "$/h" else f"{value:,.0f} {unit}"


def _types(chosen: Chosen, unit: str) -> Section:
    fleet = chosen.fleet
    rows = []
    for g, kind in enumerate(chosen.profile.types):
        count = fleet.counts[g]
        share = sum(bucket.share * fleet.shares(b)[g] for b, bucket in enumerate(chosen.profile.buckets))
        rows.append(
            (
                kind.name,
                str(count),
                _cost(fleet.problem.prices[g], unit),
                _cost(count * fleet.problem.prices[g], unit),
                f"{fleet.loads[g]:.0%}" if count else "",
                f"{share:.1%}" if count else "",
            )
        )
    table = Table(("type", "count", "each", "together", "load", "requests"), tuple(rows))
    text = [] if fleet.proven else [f"Time ran out: no choice costs less than {_cost(fleet.bound, unit)}."]
    return Section("What to rent", text, table)


def _alternatives(chosen: Chosen, unit: str) -> Section:
    fleet = chosen.fleet
    rows = [("this mix", named(fleet), _cost(fleet.cost, unit), "")]
    for kind, alone in zip(chosen.profile.types, chosen.alone, strict=True):
        if alone is None:
            rows.append((f"{kind.name} alone", "can't serve all of it", "", ""))
        else:
            rows.append((f"{kind.name} alone", named(alone), _cost(alone.cost, unit), _more(alone.cost, fleet.cost)))
    greedy = chosen.greedy
    rows.append(("cheapest type per bucket", named(greedy), _cost(greedy.cost, unit), _more(greedy.cost, fleet.cost)))
    rows.append(("no choice costs less than", "", _cost(chosen.bound, unit), ""))
    table = Table(("", "fleet", "cost", "of this mix"), tuple(rows), left=("fleet",), strong=0)
    return Section("Alternatives", (), table)


def _more(cost: float, base: float) -> str:
    return f"{cost / base - 1:+.0%}" if base else ""


def _simulated(chosen: Chosen, played: Played) -> Section:
    objective = chosen.profile.objective
    rows = []
    for name, limit, within, (median, most, worst) in (
        ("TTFT", objective.ttft_seconds, played.within_ttft, played.ttft_seconds),
        ("TPOT", objective.tpot_seconds, played.within_tpot, played.tpot_seconds),
    ):
        asked = "" if limit is None else f"{limit * 1e3:,.0f} ms"
        met = "" if limit is None else f"{within:.2%}"
        rows.append((name, asked, met, *(f"{value * 1e3:,.1f} ms" for value in (median, most, worst))))
    table = Table(("", "objective", "within", "median", "99 %", "99.9 %"), tuple(rows))
    text = [
        f"{played.within:.2%} of {played.requests:,} requests kept all objectives: Poisson arrivals, sizes drawn in "
        "their buckets, continuous batching, a router by the shares below and then the least loaded replica."
    ]
    return Section("Simulated", text, table)


def _shares(chosen: Chosen) -> Section:
    """Of the buckets that load the fleet most."""
    fleet, profile = chosen.fleet, chosen.profile
    names = fleet.problem.names

    def weight(b: int) -> float:
        return sum(
            n * (fleet.problem.loads[g][b] or 0.0) * fleet.problem.prices[g] for g, n in enumerate(fleet.slices[b])
        )

    order = sorted(range(len(profile.buckets)), key=weight, reverse=True)
    rows = []
    for b in order[:MOST_BUCKETS]:
        bucket = profile.buckets[b]
        shares = (f"{share:.0%}" if share else "" for share in fleet.shares(b))
        rows.append((bucket.name, f"{bucket.share:.1%}", *shares))
    text = [f"{len(order) - MOST_BUCKETS} buckets more are in --json and --save."] if len(order) > MOST_BUCKETS else []
    return Section("Which requests go where", text, Table(("tokens", "requests", *names), tuple(rows)))


def _origins(chosen: Chosen, traffic: Traffic) -> Section:
    """Where the figures come from."""
    from grainline.documents.traffic_presets import PRESETS

    text = [f"Throughput: {chosen.profile.source}."]
    prices = {kind.name: kind.price_source for kind in chosen.profile.types if kind.price_source}
    text += [f"Price of {name}, unless told: {source}." for name, source in prices.items()]
    for part in traffic.mix:
        preset = PRESETS[part.preset]
        text.append(
            f"Traffic '{part.preset}': a {preset.figure} of {preset.input_tokens:g} tokens in and "
            f"{preset.output_tokens:g} out by {preset.reference}; that lengths are log-normal is assumed."
        )
    return Section("Where the figures come from", text)


def _sweep(sweep: Sweep, unit: str, draw: bool) -> Section:
    rows = []
    for point in sweep.points:
        counts = " + ".join(f"{n} {name}" for n, name in zip(point.counts, sweep.names, strict=True) if n)
        alone = [cost for cost in point.alone if cost is not None]
        rows.append(
            (
                _value(point.value, sweep.unit),
                counts or "none",
                "" if point.cost is None else _cost(point.cost, unit),
                _cost(min(alone), unit) if alone else "",
            )
        )
    strong = next((i for i, point in enumerate(sweep.points) if point.value == sweep.at), None)
    columns = (sweep.what, "fleet", "cost", "best single type")
    table = Table(columns, tuple(rows), left=("fleet",), strong=strong)
    return Section(f"At another {sweep.what}", (), table, _figure(sweep, unit) if draw else "")


def _value(value: float, unit: str) -> str:
    return f"{value * 1e3:,.4g} ms" if unit == "s" else f"{value:,.4g} {'/s' if 'second' in unit else unit}"


def _figure(sweep: Sweep, unit: str) -> str:
    """Cost of the mix and of each type alone over what is varied."""
    from matplotlib.ticker import LogLocator

    from grainline._figure import INK, MUTED
    from grainline.exhibits.figure import MARKERS, colour, drawing, svg

    scale = 1e3 if sweep.unit == "s" else 1.0
    with drawing(width=7.0, height=3.0) as (figure, (axes,)):
        for g, name in enumerate(sweep.names):
            known = [(p.value * scale, p.alone[g]) for p in sweep.points if p.alone[g] is not None]
            if known:
                xs, ys = zip(*known, strict=True)
                marker = MARKERS[g % len(MARKERS)]
                axes.plot(xs, ys, marker=marker, markersize=4, color=colour(g), lw=1, label=f"{name} alone")
        points = [(p.value * scale, p.cost) for p in sweep.points if p.cost is not None]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, color=INK[0], lw=2, label="this mix")
        axes.axvline(sweep.at * scale, lw=1, ls=":", color=MUTED[0])
        axes.set_xscale("log")
        axes.set_yscale("log")
        values = [point.value * scale for point in sweep.points]
        axes.set_xticks(values, [f"{value:.3g}" for value in values])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(f"{sweep.what}, {'milliseconds' if sweep.unit == 's' else sweep.unit}")
        axes.set_ylabel(unit)
        axes.legend(loc="best", fontsize=8)
        words = f"Cost of the fleet and of each type alone over the {sweep.what}."
        return svg(figure, f"fleet-{sweep.what}", words)
