"""Colours of a timeline's boxes: by kind, and darker for a rank's later stages.

Boxes keep their colours on light and dark paper, light enough for dark numbers inside. The hues are spaced so that
people with any common kind of colour vision tell apart those that stand in one picture.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from grainline._figure import COLOURS, SERIES, Pair
from grainline.schedule.actions import COLLECTIVES, COPIES, Kind

BOXES: Mapping[str, str] = {
    "F": "#77aadd",
    "B": "#ee8866",
    "I": "#ffaabb",
    "W": "#44bb99",
    "R": "#aee3ff",
    "S": "#eedd88",
    "T": "#b3b32a",
    "EMBED": "#b98cf5",
    "UPDATE": "#85889a",
}
OF_TILES: Mapping[str, str] = {
    "DISPATCH": "#ffaabb",
    "UP": "#77aadd",
    "DOWN": "#44bb99",
    "RETURN": "#ee8866",
    "COMBINE": "#eedd88",
    "JOIN": "#85889a",
}
"""Of a layer's timeline, which shares no picture with a step's."""
EVERY: Mapping[str, str] = {**BOXES, **OF_TILES}
OF_STAGES = ("F", "B", "I", "W", "R", "UP", "DOWN")
SHADES = 5  # of these, from the first of a rank's stages to its last
LANES: Mapping[str, Pair] = {
    "forward": SERIES[0],
    "backward": SERIES[1],
    "copy": SERIES[2],
    "collective": SERIES[3],
}
WORDS: Mapping[str, str] = {
    "F": "forward",
    "B": "backward",
    "I": "input gradient",
    "W": "weight gradient",
    "R": "forward again",
    "S": "logits",
    "T": "output layer's gradient",
    "EMBED": "embedding",
    "UPDATE": "optimiser",
    "DISPATCH": "rows come in",
    "UP": "first product",
    "DOWN": "second product",
    "RETURN": "results go back",
    "COMBINE": "combined",
    "JOIN": "launches",
    "forward": "message forward",
    "backward": "message back",
    "copy": "copy",
    "collective": "collective",
}


def name_of(kind: Kind, stage: int = -1, stages: Sequence[int] = ()) -> str:
    """The colour's name: of a box, shaded by the place of `stage` among the rank's `stages`, or of a thin lane."""
    name = "EMBED" if kind is Kind.EMBED_GRAD else kind.value
    if name not in EVERY:
        return lane_of(kind)
    if name not in OF_STAGES or len(stages) < 2 or stage not in stages:
        return name
    return f"{name}-{round(stages.index(stage) / (len(stages) - 1) * (SHADES - 1))}"


def lane_of(kind: Kind) -> str:
    """Of what is no computing: the lane that it is drawn in."""
    if kind in COLLECTIVES:
        return "collective"
    if kind in COPIES:
        return "copy"
    return "forward" if kind in (Kind.SEND_F, Kind.RECV_F) else "backward"


def legend(kinds: Collection[Kind], lanes: bool) -> Iterator[tuple[str, str]]:
    """(colour, what it means) for the kinds that there are, in a settled order."""
    found = {name_of(kind) for kind in kinds}
    for name in (*EVERY, *LANES):
        if name in found and (lanes or name in EVERY):
            yield name, WORDS[name]


def _mixed(colour: str, other: str, share: float) -> str:
    a, b = (bytes.fromhex(c[1:]) for c in (colour, other))
    return "#" + bytes(round(x + (y - x) * share) for x, y in zip(a, b, strict=True)).hex()


def _shade(colour: str, step: int) -> str:
    """From 45 % towards white to 20 % towards black."""
    place = step / (SHADES - 1)
    return (
        _mixed(colour, "#ffffff", 0.45 - 0.9 * place) if place < 0.5 else _mixed(colour, "#000000", 0.4 * place - 0.2)
    )


PALETTE: Mapping[str, Pair] = {
    **COLOURS,
    "box-ink": ("#16181c", "#16181c"),
    "track": ("#eceef1", "#262a31"),
    "memory": SERIES[3],
    "memory-area": ("#e0d3f0", "#3b3150"),
    "capacity": SERIES[1],
    **{name: (colour, colour) for name, colour in EVERY.items()},
    **{f"{name}-{i}": (_shade(EVERY[name], i),) * 2 for name in OF_STAGES for i in range(SHADES)},
    **LANES,
}
