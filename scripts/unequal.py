"""The documentation's tables of measured inequality, from what `benchmarks/bench_unequal.py` has kept.

mkdocs calls `on_page_markdown` (hooks in mkdocs.yml): ``<!-- measured shares -->`` and ``<!-- measured links -->``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "unequal.json"


def on_page_markdown(markdown: str, **_: object) -> str:
    """mkdocs' hook: the page with its marks replaced."""
    for mark, table in (("<!-- measured shares -->", shares), ("<!-- measured links -->", links)):
        if mark in markdown:
            markdown = markdown.replace(mark, table(json.loads(RESULT.read_text())))
    return markdown


def shares(found: dict[str, Any]) -> str:
    """Markdown: what a share did to work of 10 ms."""
    rows = [
        "Work of 10 ms of CPU time under each rule: its wall time over its CPU time (mean, and first to last tenth), "
        "one piece after another and after 30 ms of idling; and what a spin loop got of the core just before.\n",
        "| rule | share | 1/share | at once | after idling | spin loop |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["shares"]:
        rows.append(
            f"| {row['how']}, {row['period_seconds'] * 1e3:g} ms | {row['share']} | {1 / row['share']:.2f} "
            f"| {_spread(row['slowdown'])} | {_spread(row['slowdown_after_idling'])} | {row['spin_share']:.3f} |"
        )
    others = max(row["others_share"] for row in found["shares"])
    machine = found["machine"]
    said = f"{machine['cpu']}, Linux {machine['kernel']}; other programs took at most {others:.0%} of the core."
    return "\n".join([*rows, "", f"{said} `python benchmarks/bench_unequal.py` measures it on yours."])


def links(found: dict[str, Any]) -> str:
    """Markdown: links, and relays below them."""
    rows = ["| | wanted | measured |", "|---|---|---|"]
    for row in found["links"]:
        rate, latency = row["wanted_bytes_per_second"], row["wanted_latency_seconds"]
        wanted = f"{rate / 1e6:g} MB/s" + (f", {latency * 1e3:g} ms" if latency else "")
        latency = row["latency_seconds"]
        rows.append(f"| link | {wanted} | {row['bytes_per_second'] / 1e6:.1f} MB/s, {latency * 1e3:.3g} ms |")
    for row in found["relays"]:
        wanted, got = row["wanted_latency_seconds"], row["latency_seconds"]
        rows.append(f"| relay | {wanted * 1e3:g} ms | {got * 1e3:.3g} ms |")
    return "\n".join(rows)


def _spread(found: dict[str, float]) -> str:
    return f"{found['mean']:.2f} ({found['tenth']:.2f} to {found['ninetieth']:.2f})"
