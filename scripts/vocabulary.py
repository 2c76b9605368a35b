"""The documentation's picture of vocabulary passes, simulated at every build so that it can't go stale.

mkdocs calls `on_page_markdown` (hooks in mkdocs.yml). The line ``<!-- vocabulary passes -->`` becomes the picture.
"""

from __future__ import annotations

from grainline.schedule import (
    Costs,
    Kind,
    Network,
    Schedule,
    StageCost,
    Timeline,
    add_messages,
    lower,
    one_f_one_b,
    simulate,
)
from grainline.schedule.actions import COLLECTIVES
from grainline.schedule.passes.vocabulary import add_vocabulary_passes
from grainline.schedule.passes.vocabulary_baselines import interlaced
from grainline.schedule.views.draw import compare

RANKS, MICROBATCHES = 4, 8
OUTPUT = 2.0  # forwards of a stage that the output layer's forward is worth
COLLECTIVE = 0.2


def on_page_markdown(markdown: str, **_: object) -> str:
    """mkdocs' hook: the page with its mark replaced."""
    return markdown.replace("<!-- vocabulary passes -->", picture())


def picture() -> str:
    """HTML: steps of the equal cut, in lock-step, and of both algorithms, one above another."""
    bare = one_f_one_b(RANKS, MICROBATCHES)
    made = [
        step(bare, "equal cut", _costs(1, at_the_end=True)),
        step(interlaced(RANKS, MICROBATCHES), "lock-step", _costs(1)),
        step(add_vocabulary_passes(bare, "vocab1", _costs(1)), "vocab1", _costs(1)),
        step(add_vocabulary_passes(bare, "vocab2", _costs(2)), "vocab2", _costs(2)),
    ]
    lines = "\n".join(line for line in compare(made).splitlines() if line.strip())
    return f'<div style="overflow-x: auto">\n{lines}\n</div>'  # a block, which Markdown leaves alone


def step(schedule: Schedule, name: str, costs: Costs) -> Timeline:
    """Simulated; messages take no time."""
    return simulate(lower(add_messages(schedule), costs, Network.ideal(RANKS)), name)


def _costs(products_in_s: int, at_the_end: bool = False) -> Costs:
    """Of equal stages; the output layer has three products, of which S does so many, or the last stage all."""

    def stage(number: int, rank: int) -> StageCost:
        output = OUTPUT if at_the_end and number == RANKS - 1 else 0.0
        return StageCost({Kind.F: 1 + output, Kind.B: 2 * (1 + output)})

    share = OUTPUT / RANKS
    seconds = {Kind.S: products_in_s * share, Kind.T: (3 - products_in_s) * share}
    return Costs(
        stage,
        rank_seconds=seconds | {Kind.EMBED: 0.05, Kind.EMBED_GRAD: 0.05} | dict.fromkeys(COLLECTIVES, COLLECTIVE),
    )
