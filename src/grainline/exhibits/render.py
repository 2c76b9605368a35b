"""Results on a terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from grainline.exhibits.frame import Claim, Result

if TYPE_CHECKING:
    from rich.console import RenderableType

MARKS = {"holds": ("✓", "green"), "short": ("✗", "red"), "inconclusive": ("?", "yellow"), "not-run": ("–", "dim")}


def number(value: float) -> str:
    """Four digits, without an exponent where people wouldn't write one."""
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e6 or value == 0 else f"{value:.2e}"


def error_bar(result: Result) -> str:
    """``(0.97 to 0.99)``."""
    if result.error_bar is None:
        return ""
    low, high = result.error_bar
    return f"({number(low)} to {number(high)})"


def as_json(results: Iterable[Result]) -> str:
    """A list of results."""
    return json.dumps([result.table() for result in results], indent=2, ensure_ascii=False)


def card(result: Result, problem: str = "") -> RenderableType:
    """One result for a terminal."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    mark, style = MARKS[result.verdict]
    head = Text.assemble((f"{mark} {result.verdict}", f"bold {style}"), "  ", (result.name, "bold"))
    lines = [Text(result.claim)]
    if result.measured is not None:
        lines.append(
            Text.assemble(
                ("measured ", "dim"),
                f"{number(result.measured)} {error_bar(result)}",
                ("  expected ", "dim"),
                f"{number(result.expected)}, margin {number(result.margin)}",
            )
        )
    lines.append(Text(f"against {result.baseline}; {result.how}, seeds {', '.join(map(str, result.seeds))}", "dim"))
    if result.quick and result.measured is not None:
        lines.append(Text(f"a quick run proves that it runs; the claim is judged by: {full(result)}", "dim"))
    if problem:
        lines.append(Text(problem.strip(), "red" if result.verdict == "not-run" else ""))
    return Group(head, *(Padding(line, (0, 0, 0, 2)) for line in lines), "")


def full(result: Result) -> str:
    """The command of the full run."""
    return result.command.removesuffix(" --quick")


def listing(claims: Sequence[Claim]) -> RenderableType:
    """What there is."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for claim in claims:
        table.add_row(claim.name, claim.text)
    return table
