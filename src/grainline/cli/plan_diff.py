"""`grainline plan diff`: what two plans have unlike, and what is expected of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def run(one: Path, other: Path, /, *, json: bool = False, html: Path | None = None) -> int:
    """Show what two plans have unlike, key by key, and what is expected of each. The exit code is 1 where they differ.

      grainline plan diff a.toml b.toml

    Args:
        one: a plan (.toml or .json)
        other: another
        json: print one JSON object
        html: write a page
    """
    from grainline._report import Report, Section, Table
    from grainline._words import span
    from grainline.cli.tell import tell
    from grainline.documents import Plan

    plans = [Plan.load(path) for path in (one, other)]
    flat = [dict(_flat(plan.tables())) for plan in plans]
    unlike = {key: tuple(of.get(key) for of in flat) for key in sorted({**flat[0], **flat[1]})}
    unlike = {key: pair for key, pair in unlike.items() if pair[0] != pair[1]}
    expected = [None if plan.made_for is None else plan.made_for.step_seconds for plan in plans]
    lead = f"{len(unlike)} keys differ." if unlike else "The plans are alike."
    if None not in expected and expected[0] != expected[1]:
        a, b = (seconds or 0.0 for seconds in expected)
        ends = [(p.made_for.low_seconds or 0.0, p.made_for.high_seconds or 0.0) for p in plans if p.made_for]
        within = ", which lies within what is uncertain" if ends[0][1] > ends[1][0] and ends[1][1] > ends[0][0] else ""
        lead += f" Steps of {span(a)} and {span(b)} are expected: {max(a, b) / min(a, b) - 1:.1%} apart{within}."
    names = tuple(map(str, (one, other))) if one != other else ("one", "other")
    rows = tuple((key, *(_told(value) for value in pair)) for key, pair in unlike.items())
    sections = (Section("Unlike", table=Table(("key", *names), rows, left=names)),) if rows else ()
    tell(Report("Two plans", lead, sections), {"unlike": unlike, "expected_seconds": expected}, json=json, html=html)
    return 1 if unlike else 0


def _flat(tables: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _told(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"{len(value)} entries, {value[0]} … {value[-1]}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
