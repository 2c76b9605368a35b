"""The documentation's table and picture of pipeline schedules, computed at every build so that they can't go stale.

mkdocs calls `on_page_markdown` (hooks in mkdocs.yml). A line ``<!-- schedules -->`` becomes a table of all schedules,
``<!-- picture of NAME, NAME -->`` their simulated steps, one above another.
"""

from __future__ import annotations

import re

from grainline.schedule import (
    SCHEDULES,
    Kind,
    Network,
    Schedule,
    Timeline,
    add_messages,
    equal_costs,
    lower,
    make_schedule,
    peak_in_flight,
    simulate,
)
from grainline.schedule.views.draw import compare

RANKS, MICROBATCHES = 8, 32  # of the table
DRAWN_RANKS, DRAWN_MICROBATCHES = 4, 8


def on_page_markdown(markdown: str, **_: object) -> str:
    """mkdocs' hook: the page with its marks replaced."""
    markdown = re.sub(r"<!-- schedules -->", lambda _: table(), markdown)
    return re.sub(r"<!-- picture of ([\w, -]+) -->", lambda found: picture(found[1].split(", ")), markdown)


def table() -> str:
    """Markdown: a row for each schedule, with a second one where it takes more stages per rank."""
    rows = ["| schedule | stages per rank | bubble | held | messages | |", "|---|---|---|---|---|---|"]
    for name, known in SCHEDULES.items():
        more = (known.usual_chunks, 2 * known.usual_chunks) if known.chunks[1] is None else (known.usual_chunks,)
        for chunks in more:
            schedule = make_schedule(name, RANKS, MICROBATCHES, chunks=chunks)
            about = known.about if chunks == known.usual_chunks else ""
            held = max(peak_in_flight(schedule)) / chunks
            messages = sum(a.kind in (Kind.SEND_F, Kind.SEND_B) for of in add_messages(schedule).actions for a in of)
            rows.append(
                f"| `{name}` | {chunks} | {timeline(schedule).bubble_overhead:.1%} | {held:g} "
                f"| {messages / MICROBATCHES:g} | {about} |"
            )
    return "\n".join(rows)


def picture(names: list[str]) -> str:
    """HTML: the steps of these schedules, drawn."""
    made = [make_schedule(name, DRAWN_RANKS, DRAWN_MICROBATCHES) for name in names]
    svg = compare([timeline(schedule) for schedule in made])
    lines = "\n".join(line for line in svg.splitlines() if line.strip())
    return f'<div style="overflow-x: auto">\n{lines}\n</div>'  # a block, which Markdown leaves alone


def timeline(schedule: Schedule) -> Timeline:
    """A simulated step: F, I and W of all of a rank's stages together take a second each, messages nothing."""
    chunks = schedule.stages // schedule.ranks
    costs = equal_costs(1 / chunks, 2 / chunks)
    return simulate(lower(add_messages(schedule), costs, Network.ideal(schedule.ranks)), schedule.name)
