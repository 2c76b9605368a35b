"""The documentation's table of the simulator against reality, from what `benchmarks/bench_reality.py` has kept.

mkdocs calls `on_page_markdown` (hooks in mkdocs.yml), for marks such as ``<!-- simulator against reality -->``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
MARKS = {
    "<!-- simulator against reality -->": "reality.json",
    "<!-- simulator against reality, unseen -->": "reality_unseen.json",
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """mkdocs' hook: the page with its marks replaced."""
    for mark, file in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, table(json.loads((RESULTS / file).read_text())))
    return markdown


def table(found: Mapping[str, Any]) -> str:
    """Markdown: errors by setting, then every trial."""
    rows = [
        "| setting | simulator: median error | worst | naive: median error | worst | trials |",
        "|---|---|---|---|---|---|",
    ]
    settings = found["settings"]
    for name, one in settings.items():
        rows.append(f"| {name} | {_both(one['rows'])} | {len(one['rows'])} |")
    everything = [row for one in settings.values() for row in one["rows"]]
    rows.append(f"| **all** | {_both(everything)} | {len(everything)} |")
    rows += ["", *(f"Left out here: {name}. {why}" for name, why in found["not_allowed"].items())]
    for name, one in settings.items():
        rows += [f'??? note "{name}: every trial"', ""]
        rows += [f"    {line}" for line in _trials(one["rows"])]
        rows.append("")
    return "\n".join([*rows, f"{found['machine']['cpu']}, Linux {found['machine']['kernel']}."])


def _both(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for which in ("simulated", "naive"):
        off_by = [abs(row[which] / row["measured"] - 1) for row in rows]
        cells += [f"{statistics.median(off_by):.1%}", f"{max(off_by):.1%}"]
    return " | ".join(cells)


def _trials(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| shape, schedule, cut | measured | simulated | off by | naive |", "|---|---|---|---|---|"]
    for row in rows:
        off, naive = (row[which] / row["measured"] - 1 for which in ("simulated", "naive"))
        lines.append(
            f"| {row['trial']} | {row['measured'] * 1e3:.0f} ms | {row['simulated'] * 1e3:.0f} ms "
            f"| {off:+.1%} | {naive:+.1%} |"
        )
    return lines
