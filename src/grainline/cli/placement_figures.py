"""Figures of `grainline plan place`: loads of ranks, and steps between them, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from grainline._figure import MUTED
from grainline.documents.routing_trace import RoutingTrace
from grainline.exhibits.figure import MARKERS, colour, drawing, svg
from grainline.plan.placement import Placement, Statistics
from grainline.plan.placement.judge import steps

if TYPE_CHECKING:
    from matplotlib.patches import Rectangle


def draw_loads(placements: Mapping[str, Placement], test: RoutingTrace, chosen: str) -> str:
    """The fullest rank of each layer over the mean: experts in their order, and as chosen."""
    found = Statistics.of(test)
    with drawing() as (figure, (axes,)):
        for i, name in enumerate(dict.fromkeys(("contiguous", chosen))):
            each = placements[name]
            rows = np.stack([found.load_LE[i] @ each.share_BEG[bank] for i, bank in enumerate(found.banks)])
            fullest = rows.max(1) / np.maximum(rows.mean(1), 1e-12)
            axes.plot(test.layers, fullest, color=colour(i), marker=MARKERS[i], lw=1, ms=4, label=name)
        axes.axhline(1, color=MUTED[0], lw=0.8, ls=":")
        axes.set(xlabel="layer", ylabel="fullest rank / mean")
        axes.legend()
        return svg(figure, "placement.load", "Load of the fullest rank over the mean, by layer, before and after.")


def draw_steps(placements: Mapping[str, Placement], test: RoutingTrace, chosen: str) -> str:
    """[G, G]: a token's steps between layers, summed over them, from the row's rank to the column's."""
    found = Statistics.of(test)
    names = list(dict.fromkeys(("contiguous", chosen)))
    tables = [steps(found, placements[name]).sum(0) for name in names]
    most = max((float(table.max()) for table in tables), default=1.0) or 1.0
    with drawing(len(names), width=3.4 * len(names)) as (figure, axes):
        for name, table, each in zip(names, tables, axes, strict=True):
            each.grid(False)
            for a, b in np.ndindex(table.shape):
                side = 0.95 * float(np.sqrt(table[a, b] / most))
                each.add_patch(_square(b, a, side))
            count = len(table)
            each.set(xlim=(-0.6, count - 0.4), ylim=(count - 0.4, -0.6), aspect="equal")
            each.set(title=name, xlabel="to rank", ylabel="from rank")
        return svg(figure, "placement.steps", "Steps from rank to rank between layers; areas are in proportion.")


def _square(x: float, y: float, side: float) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x - side / 2, y - side / 2), side, side, color=colour(0))
