"""Chunk pipelining: rows in k parts, whose messages and products overlap part by part; k = 1 is the serial layer.

FasterMoE (PPoPP 2022) and Tutel (arXiv 2206.03382) do so with two to eight parts. Each part has kernels of its own: its
first product begins once all its rows are there and the products of the part before are through.
"""

from __future__ import annotations

from grainline.schedule.overlap.layer import ExpertLayer
from grainline.schedule.overlap.options import DEFAULT, Options
from grainline.schedule.overlap.tasks import Listing, Piece, TilePlan, TileTask, What, cut, spans_of_experts


def serial(layer: ExpertLayer, options: Options = DEFAULT) -> TilePlan:
    """All rows in, both products, all results back."""
    return _pipeline(layer, options, 1, "serial")


def chunked(layer: ExpertLayer, options: Options = DEFAULT) -> TilePlan:
    """In `options.chunks` parts of each source's rows for each expert."""
    return _pipeline(layer, options, options.chunks, f"{options.chunks} chunks")


def _pipeline(layer: ExpertLayer, options: Options, chunks: int, name: str) -> TilePlan:
    listing, pieces, returns = Listing(), [], []
    dispatches = [listing.add(TileTask(What.DISPATCH, stage=chunk)) for chunk in range(chunks)]
    before: tuple[int, ...] = ()
    begin = 0
    for chunk, dispatch in enumerate(dispatches):
        mine = list(_pieces(layer, chunk, chunks, dispatch))
        end = begin + sum(piece.rows for piece in mine)
        start = listing.add(TileTask(What.JOIN, (dispatch, *before), launches=options.launches))
        spans = list(spans_of_experts(mine, begin))
        ups = tuple(
            listing.add(TileTask(What.UP, (start,), expert, m, n, rows, columns, stage=chunk))
            for expert, span in spans
            for m, rows in cut(span, options.tile.rows)
            for n, columns in cut((0, layer.hidden), options.tile.columns)
        )
        middle = listing.add(TileTask(What.JOIN, ups or (start,)))
        downs = [
            listing.add(TileTask(What.DOWN, (middle,), expert, m, n, rows, columns, stage=chunk))
            for expert, span in spans
            for m, rows in cut(span, options.tile.rows)
            for n, columns in cut((0, layer.width), options.tile.columns)
        ]
        before = tuple(downs) or (middle,)
        back = TileTask(What.RETURN, before, rows=(begin, end), columns=(0, layer.width), stage=chunk)
        returns.append((listing.add(back), downs))
        pieces += mine
        begin = end
    for back_again, downs in returns:
        for down in downs:
            of = listing.tasks[down]
            combine = TileTask(What.COMBINE, (back_again,), of.expert, of.m, of.n, of.rows, of.columns, stage=of.stage)
            listing.add(combine)
    return TilePlan(name, layer, options.tile, tuple(pieces), tuple(listing.tasks), "in order")


def _pieces(layer: ExpertLayer, chunk: int, chunks: int, dispatch: int) -> list[Piece]:
    found = []
    for expert in range(layer.experts):
        for source in layer.arrival:
            count = layer.rows_WE[source][expert]
            first, last = chunk * count // chunks, (chunk + 1) * count // chunks
            found.append(Piece(expert, source, first, last - first, dispatch))
    return found
