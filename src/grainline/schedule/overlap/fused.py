"""The whole layer as one queue of tasks that any idle worker takes (FlashMoE, arXiv 2506.04667, section 3).

Rows of each (source, expert) have tiles of their own, and begin as soon as they are there. The last tile of a row
block's first product releases those of its second; each of these goes back by itself, and is then combined. There is no
barrier: first products, second products and sums of unlike experts and sources run side by side.
"""

from __future__ import annotations

from itertools import pairwise

from grainline.schedule.overlap.layer import ExpertLayer
from grainline.schedule.overlap.options import DEFAULT, Options
from grainline.schedule.overlap.tasks import Listing, Piece, TilePlan, TileTask, What, cut


def fused(layer: ExpertLayer, options: Options = DEFAULT) -> TilePlan:
    """One launch; results of this rank's own rows need no way back."""
    listing = Listing()
    cells = [(source, expert) for source in layer.arrival for expert in range(layer.experts)]
    arrives = {
        cell: listing.add(TileTask(What.DISPATCH, expert=cell[1], source=cell[0], stage=layer.stage(cell[0])))
        for cell in cells
    }
    by_expert = sorted(cells, key=lambda cell: (cell[1], layer.stage(cell[0])))
    pieces = tuple(Piece(e, s, 0, layer.rows_WE[s][e], arrives[s, e]) for s, e in by_expert)
    offsets = TilePlan("fused", layer, options.tile, pieces, (), "when ready").offsets
    begins = dict(zip(by_expert, pairwise(offsets), strict=True))
    for source, expert in cells:
        stage = layer.stage(source)
        for m, rows in cut(begins[source, expert], options.tile.rows):
            ups = [
                TileTask(What.UP, (arrives[source, expert],), expert, m, n, rows, columns, source, stage)
                for n, columns in cut((0, layer.hidden), options.tile.columns)
            ]
            released = listing.add(TileTask(What.JOIN, tuple(map(listing.add, ups))))
            for n, columns in cut((0, layer.width), options.tile.columns):
                place = expert, m, n, rows, columns, source, stage
                last = listing.add(TileTask(What.DOWN, (released,), *place))
                if source != layer.rank:
                    last = listing.add(TileTask(What.RETURN, (last,), *place))
                listing.add(TileTask(What.COMBINE, (last,), *place))
    return TilePlan("fused", layer, options.tile, pieces, tuple(listing.tasks), "when ready")
