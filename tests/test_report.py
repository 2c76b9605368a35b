"""One report on the terminal and as a page."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from typing import ClassVar

from rich.console import Console

from grainline._report import Report, Section, Table, page, show

REPORT = Report(
    "Plans <of> a model",
    "The first takes 3.2 s a step & fits.",
    (
        Section(
            "Ranked",
            ("Best first.",),
            Table(("plan", "seconds", "why"), (("a", "3.2", "[x]"), ("b", "4", "")), ("why",), 0),
        ),
        Section("Timeline", svg="<svg><text>step</text></svg>"),
    ),
)


def test_terminal_shows_words_and_numbers() -> None:
    """Markup in cells is text; figures are left out with their heading."""
    out = io.StringIO()
    show(REPORT, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert lines[0] == REPORT.lead
    assert "[x]" in out.getvalue()
    assert "Timeline" not in out.getvalue()
    heads = next(line for line in lines if line.startswith("plan"))
    row = next(line for line in lines if line.startswith("a "))
    assert heads.index("seconds") + len("seconds") == row.index("3.2") + len("3.2")


def test_page_is_whole_and_escaped() -> None:
    """Every tag is closed, words are escaped, the figure is not."""
    html = page(REPORT)
    assert "Plans &lt;of&gt; a model" in html
    assert "<svg><text>step</text></svg>" in html
    assert '<tr class="strong"><td class="left">a</td><td>3.2</td>' in html
    assert "http" not in html  # nothing fetched

    class Balance(HTMLParser):
        open: ClassVar[list[str]] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    Balance().feed(html)
    assert Balance.open == []
