"""How verbs give their answers: a table, ``--json``, a page with ``--html``; timelines as pictures and traces."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from grainline._report import Report
    from grainline.schedule import Timeline


def tell(report: Report, data: Mapping[str, Any], *, json: bool, html: Path | None) -> None:
    """Print the report, or `data` as one JSON object; write the page where one is wanted, whole or not at all."""
    from grainline._report import page, show
    from grainline.documents.base import write_atomically

    if html is not None:
        if html.suffix not in (".html", ".htm"):
            raise GrainlineError(f"--html {html}: name a file that ends in .html.")
        write_atomically(html, page(report))
        print(f"The page is in {html}.", file=sys.stderr)
    if json:
        print(json_module.dumps(data, indent=2, default=str))
    else:
        show(report)


def write_timelines(timelines: Sequence[Timeline], draw: Path | None, trace: Path | None) -> None:
    """A picture of all on one axis, and a Perfetto trace of the first, where they are wanted."""
    from grainline.schedule.views import draw as drawing
    from grainline.schedule.views import perfetto

    if draw is not None:
        if len(timelines) == 1:
            drawing.draw(timelines[0], draw)
        else:
            drawing.compare(timelines, draw)
        print(f"Drawn in {draw}.", file=sys.stderr)
    if trace is not None:
        perfetto.save(timelines[0], trace)
        print(f"The trace is in {trace}: open it on ui.perfetto.dev.", file=sys.stderr)
