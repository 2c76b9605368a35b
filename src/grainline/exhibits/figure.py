"""Figures as SVG that reads on light and on dark paper, in colours that people with colour blindness can tell apart.

Colours are CSS variables with the light ones as their fallback, and the SVG brings its own style sheet: so one file
serves a light page, a dark page, and a page that inlines it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from grainline._figure import COLOURS, INK, MUTED, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D")  # so that colour is never the only difference


def colour(i: int) -> str:
    """The colour of series i, from 0."""
    return SERIES[i % len(SERIES)][0]


@contextmanager
def drawing(columns: int = 1, *, width: float = 7.0, height: float = 3.2) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with `columns` axes in the house's style; sizes in inches. Draw inside, then `svg` it inside too."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",  # text stays text: readable by machines, and in the reader's own font
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": MUTED[0],
        "grid.alpha": 0.25,
        "legend.frameon": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK[0]),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED[0]),
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, list(figure.subplots(1, columns, squeeze=False)[0])


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as SVG. `name` keeps its ids apart from those of other figures; `description` is read out aloud."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    for key, (light, _) in COLOURS.items():
        text = re.sub(rf"{light}\b", f"var(--{key}, {light})", text, flags=re.IGNORECASE)
    # In a page, one figure's sheet must not reach beyond it; and the reader's own font serves better than ours.
    text = text.replace("*{stroke-linejoin", "svg.exhibit *{stroke-linejoin")
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    # matplotlib's ids count from one in each figure; on a page with several they would point into each other.
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{re.sub('[^a-z0-9]', '-', name)}-", text)
    head, rest = text.split(">", 1)
    label = f' class="exhibit" role="img" aria-label="{escape(description, {chr(34): "&quot;"})}">'
    return f"{head}{label}\n <style>{_sheet()}</style>{rest}"


def _sheet() -> str:
    light, dark = ("".join(f"--{key}:{pair[i]};" for key, pair in COLOURS.items()) for i in (0, 1))
    font = "svg.exhibit text{font-family:system-ui,sans-serif}"
    return f"svg.exhibit{{{light}}}@media(prefers-color-scheme:dark){{svg.exhibit{{{dark}}}}}{font}"
