"""Tiles in the order in which their rows come and their results go (COMET, arXiv 2502.19811, section 3.1).

The first product is cut along rows, which it doesn't sum over. An expert's rows are sorted by when their source comes,
this rank's own first; a tile belongs to the latest source that has rows in it; tiles come by (stage of that source,
expert, tile). The second is cut along columns, because a token's sum is over rows of many experts. One group of columns
after another is worked through for all experts, and goes back while the next is worked on. The activation between the
two products is a barrier, as in the authors' kernels.
"""

from __future__ import annotations

from itertools import pairwise

from grainline.schedule.overlap.layer import ExpertLayer
from grainline.schedule.overlap.options import DEFAULT, Options
from grainline.schedule.overlap.tasks import Listing, Piece, Span, TilePlan, TileTask, What, cut, spans_of_experts


def tile_order(layer: ExpertLayer, options: Options = DEFAULT) -> TilePlan:
    """In `options.groups` groups of columns, each a whole number of column tiles."""
    listing = Listing()
    arrives = {s: listing.add(TileTask(What.DISPATCH, source=s, stage=i)) for i, s in enumerate(layer.arrival)}
    pieces = tuple(
        Piece(expert, source, 0, layer.rows_WE[source][expert], arrives[source])
        for expert in range(layer.experts)
        for source in layer.arrival
    )
    rows_only = TilePlan("tile", layer, options.tile, pieces, (), "in order")
    tiles: list[tuple[int, int, int, Span]] = [  # stage, expert, m, rows
        (max(layer.stage(piece.source) for piece in rows_only.pieces_of(rows)), expert, m, rows)
        for expert, span in spans_of_experts(pieces)
        for m, rows in cut(span, options.tile.rows)
    ]
    ups = []
    for stage, expert, m, rows in sorted(tiles):
        waits = tuple(sorted({arrives[piece.source] for piece in rows_only.pieces_of(rows)}))
        for n, columns in cut((0, layer.hidden), options.tile.columns):
            latest = layer.arrival[stage]
            ups.append(listing.add(TileTask(What.UP, waits, expert, m, n, rows, columns, latest, stage)))
    middle = listing.add(TileTask(What.JOIN, tuple(ups), launches=1))
    sent = []
    for group, columns in enumerate(column_groups(layer, options)):
        downs = []
        for _, expert, m, rows in sorted(tiles, key=lambda tile: tile[1:]):
            for n, tile_columns in _columns_of(columns, options):
                downs.append(listing.add(TileTask(What.DOWN, (middle,), expert, m, n, rows, tile_columns, stage=group)))
        back = TileTask(What.RETURN, tuple(downs) or (middle,), rows=(0, layer.rows), columns=columns, stage=group)
        sent.append((listing.add(back), downs))
    for back_again, downs in sent:
        for down in downs:
            of = listing.tasks[down]
            listing.add(
                TileTask(What.COMBINE, (back_again,), of.expert, of.m, of.n, of.rows, of.columns, stage=of.stage)
            )
    return TilePlan("tile", layer, options.tile, pieces, tuple(listing.tasks), "in order", options.comm_workers)


def column_groups(layer: ExpertLayer, options: Options) -> list[Span]:
    """Columns of the second product's output in groups, of as equal numbers of column tiles as can be."""
    tiles, groups = -(-layer.width // options.tile.columns), options.column_groups(layer)
    ends = [tiles * group // groups * options.tile.columns for group in range(groups + 1)]
    return [(begin, min(end, layer.width)) for begin, end in pairwise(ends)]


def _columns_of(columns: Span, options: Options) -> list[tuple[int, Span]]:
    first = columns[0] // options.tile.columns
    return [(first + n, span) for n, span in cut(columns, options.tile.columns)]
