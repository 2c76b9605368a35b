"""The documentation's picture of overlaps, simulated at every build so that it can't go stale.

mkdocs calls `on_page_markdown` (hooks in mkdocs.yml). The line ``<!-- overlaps -->`` becomes the picture.
"""

from __future__ import annotations

from grainline.schedule.overlap import OVERLAPS, ExpertLayer, Options, TileDevice, TileShape, simulate_tiles
from grainline.schedule.views.draw import compare

LAYER = ExpertLayer(((64, 32, 48),) * 4, width=512, hidden=512)
OPTIONS = Options(TileShape(32, 128), chunks=2, groups=4)
DEVICE = TileDevice(workers=6, flops_per_second=1e12, link_bytes_per_second=2.4e9)


def on_page_markdown(markdown: str, **_: object) -> str:
    """mkdocs' hook: the page with its mark replaced."""
    return markdown.replace("<!-- overlaps -->", picture()) if "<!-- overlaps -->" in markdown else markdown


def picture() -> str:
    """HTML: one layer on six workers, overlapped in every way, one above another."""
    made = [simulate_tiles(make(LAYER, OPTIONS), DEVICE) for make in OVERLAPS.values()]
    lines = "\n".join(line for line in compare(made).splitlines() if line.strip())
    return f'<div style="overflow-x: auto">\n{lines}\n</div>'  # a block, which Markdown leaves alone
