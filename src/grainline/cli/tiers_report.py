"""What `grainline plan memory` says: tables, figures, and the same as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from grainline._report import Report, Section, Table
from grainline._words import percent, size, span

if TYPE_CHECKING:
    from grainline.plan.tiers.serving import Pass, Served

FLOORS = 41  # points of a curve


def report(model: str, found: Mapping[str, Served], windows: Mapping[int, Served], *, draw: bool) -> Report:
    """All clusters, the first one's look-ahead, and where the second one's all-reduces make both equal."""
    name, served = next(iter(found.items()))
    asked = served.wanted
    lead = (
        f"{model} on {name}, {asked.batch} sequences of {asked.context:,} tokens and {asked.out:,} more: the first "
        f"tokens after {span(served.ttft_seconds)}, then one every {span(served.tpot_seconds)}."
    )
    if served.machine.pool is not None:
        waits = served.token.stall_seconds / served.tpot_seconds
        lead += f" Of that, {percent(waits)} is waiting for the pool."
    sections = [_times(found), _places(found)]
    if windows:
        sections.append(_windows(windows, asked.lookahead, served, draw))
    if len(found) > 1:
        sections.append(_against(found, draw))
    return Report(f"Memory tiers: {model}", lead, tuple(sections))


def _times(found: Mapping[str, Served]) -> Section:
    columns = ("", "", "seconds", "computing", "of it all-reduces", "waiting", "fetched", "written")
    rows = []
    for name, served in found.items():
        for what, one in (("first tokens", served.first), ("each token", served.token)):
            row = (name, what, span(one.seconds), span(one.compute_seconds), span(one.collective_seconds))
            rows.append((*row, span(one.stall_seconds), size(one.fetched_bytes), size(one.written_bytes)))
    words = [
        "Fetched and written: by each device, in one pass. A token is taken half way through the answers, with the "
        "pool's traffic of the pass before behind it."
    ]
    return Section("Times", words, Table(columns, tuple(rows), left=("",)))


def _places(found: Mapping[str, Served]) -> Section:
    columns = ("", "devices", "weights", "cache", "kept local", "of it experts", "window", "peak", "local memory")
    rows = tuple(
        (
            name,
            str(served.machine.ranks),
            size(served.weight_bytes),
            size(served.cache_bytes),
            size(served.pinned_bytes),
            percent(served.pinned_experts),
            size(served.window_bytes),
            size(max(served.first.peak_bytes, served.token.peak_bytes)),
            size(served.machine.local_bytes),
        )
        for name, served in found.items()
    )
    words = [
        "Weights and cache are of all devices; the rest is of each. Kept local is what saves most fetching per byte."
    ]
    return Section("Memory", words, Table(columns, rows))


def _windows(windows: Mapping[int, Served], chosen: int, served: Served, draw: bool) -> Section:
    rows = tuple(
        (
            str(ahead),
            span(one.tpot_seconds),
            span(one.token.stall_seconds),
            size(one.window_bytes),
            span(one.ttft_seconds),
        )
        for ahead, one in windows.items()
    )
    words = ["Without any, a token takes compute and fetching one after another; with enough, the longer of the two."]
    picture = ""
    if draw:
        from grainline.schedule.views.draw import draw as draw_timeline

        picture = draw_timeline(served.token.paged.timeline, messages=True) if len(served.token.paged.timeline) else ""
    table = Table(
        ("look-ahead", "each token", "waiting", "window", "first tokens"), rows, strong=list(windows).index(chosen)
    )
    return Section("Looking ahead", words, table, picture)


def _against(found: Mapping[str, Served], draw: bool) -> Section:
    """With the time of links' small all-reduces as what decides."""
    (name, one), (other_name, other) = list(found.items())[:2]
    words = [
        f"{name} has {one.tpot_seconds / other.tpot_seconds:.2f} times the TPOT of {other_name}, "
        f"{one.ttft_seconds / other.ttft_seconds:.2f} times its TTFT, and "
        f"{_local(one) / _local(other):.1%} of its local memory."
    ]
    crossing = parity(one.token, other.token, collectives(other))
    if crossing is not None and one.machine.pool is not None and other.machine.pool is None:
        words.append(
            f"Both take as long per token where an all-reduce on {other_name} takes {span(crossing)}; now it takes "
            f"{span(other.token.collective_seconds / collectives(other))}."
        )
    return Section("Against each other", words, None, _floors(found, crossing) if draw else "")


def _local(served: Served) -> float:
    return served.machine.local_bytes * served.machine.ranks


def collectives(served: Served) -> int:
    """All-reduces of a pass."""
    from grainline.plan.tiers.serving import TURNS

    return sum(one.name.startswith("all-reduce") for one in served.token.paged.operators) // TURNS


def parity(one: Pass, other: Pass, count: int) -> float | None:
    """Seconds of each of the other's `count` all-reduces at which its pass takes as long; None where none are made."""
    return (one.seconds - (other.seconds - other.collective_seconds)) / count if count else None


def _floors(found: Mapping[str, Served], crossing: float | None) -> str:
    import numpy as np

    from grainline.exhibits.figure import MUTED, colour, drawing, svg

    (name, one), (other_name, other) = list(found.items())[:2]
    count = collectives(other)
    rest = other.token.seconds - other.token.collective_seconds
    most = 2 * max(crossing or 0.0, other.token.collective_seconds / max(count, 1))
    seconds = np.linspace(0, most, FLOORS)
    with drawing() as (figure, (axes,)):
        axes.plot(seconds * 1e6, 1e3 * (rest + count * seconds), color=colour(0), label=other_name)
        axes.axhline(1e3 * one.tpot_seconds, color=colour(1), ls="--", label=name)
        if crossing is not None and crossing > 0:
            axes.axvline(crossing * 1e6, color=MUTED[0], ls=":", label=f"equal at {span(crossing)}")
        axes.set(xlabel="µs of an all-reduce on links", ylabel="ms per token", ylim=(0, None), title="What decides")
        axes.legend()
        return svg(figure, "tiers.parity", "Time per token against the time of an all-reduce on links.")


def as_json(found: Mapping[str, Served], windows: Mapping[int, Served]) -> dict[str, Any]:
    """Plain values, in SI units."""
    told: dict[str, Any] = {"clusters": {name: _values(served) for name, served in found.items()}}
    told["lookahead"] = {
        str(ahead): {
            "tpot_seconds": one.tpot_seconds,
            "ttft_seconds": one.ttft_seconds,
            "window_bytes": one.window_bytes,
        }
        for ahead, one in windows.items()
    }
    if len(found) > 1:
        one, other = list(found.values())[:2]
        told["parity_all_reduce_seconds"] = parity(one.token, other.token, collectives(other))
    return told


def _values(served: Served) -> dict[str, Any]:
    return {
        "devices": served.machine.ranks,
        "ttft_seconds": served.ttft_seconds,
        "tpot_seconds": served.tpot_seconds,
        "weight_bytes": served.weight_bytes,
        "cache_bytes": served.cache_bytes,
        "pinned_bytes": served.pinned_bytes,
        "pinned_experts": served.pinned_experts,
        "window_bytes": served.window_bytes,
        "first": _pass(served.first),
        "token": _pass(served.token),
    }


def _pass(one: Pass) -> dict[str, float]:
    return {
        "seconds": one.seconds,
        "compute_seconds": one.compute_seconds,
        "all_reduce_seconds": one.collective_seconds,
        "stall_seconds": one.stall_seconds,
        "fetched_bytes": one.fetched_bytes,
        "written_bytes": one.written_bytes,
        "peak_bytes": one.peak_bytes,
    }
