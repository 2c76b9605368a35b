"""How a planning verb gives its answer: a table, ``--json``, and a page with ``--html``."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grainline.documents import GrainlineError

if TYPE_CHECKING:
    from grainline._report import Report


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
