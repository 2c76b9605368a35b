"""A result as people take it: tables, figures and sentences, for the terminal or as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grainline._words import printable

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Table:
    """Rows of text. Columns named in `left` are aligned to the left, and so is the first; the others hold numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[str, ...] = ()
    strong: int | None = None  # the row that was chosen

    def is_left(self, column: int) -> bool:
        """Whether a column holds words."""
        return column == 0 or self.columns[column] in self.left


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in this order: sentences, a table, a figure."""

    title: str
    text: Sequence[str] = ()  # paragraphs
    table: Table | None = None
    svg: str = ""  # shown on the page alone


@dataclass(frozen=True)
class Report:
    """What one command found."""

    title: str
    lead: str  # the answer, in a sentence or two
    sections: tuple[Section, ...] = ()


def show(report: Report, console: Console | None = None) -> None:
    """Print it on the terminal; figures are left to the page."""
    from rich.console import Console

    console = console or Console(soft_wrap=True)
    console.print(report.lead, markup=False, highlight=False)
    for section in report.sections:
        if not section.text and section.table is None:
            continue
        console.print(f"\n{section.title}", style="bold", markup=False, highlight=False)
        for paragraph in section.text:
            console.print(paragraph, markup=False, highlight=False)
        if section.table is not None:
            console.print(_rich(section.table))


def page(report: Report) -> str:
    """The HTML: no script, nothing fetched, for light and dark screens."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return printable(environment.get_template("_report.html.j2").render(report=report))


def _rich(table: Table) -> object:
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(box=None, pad_edge=False, header_style="")
    for i, column in enumerate(table.columns):
        drawn.add_column(Text(column, style="dim"), justify="left" if table.is_left(i) else "right", no_wrap=i == 0)
    for i, row in enumerate(table.rows):
        drawn.add_row(*(Text(printable(cell)) for cell in row), style="bold" if i == table.strong else "")
    return drawn
