"""Figures: well-formed, safe to inline side by side, readable on light and dark paper."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest

from grainline._figure import COLOURS, PAPER, SERIES
from grainline.exhibits.figure import MARKERS, colour, drawing, svg


def draw(name: str) -> str:
    with drawing(2) as (figure, (left, right)):
        for i in range(4):
            left.plot([0, 1], [i, i + 1], color=colour(i), marker=MARKERS[i], label=f"series {i}")
        left.set_title("A < B & C")
        left.legend()
        right.scatter([0, 1], [1, 2], color=colour(0))
        return svg(figure, name, 'what it shows, "quoted" & all')


def luminance(hexed: str) -> float:
    channels = [int(hexed[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted([luminance(a), luminance(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("paper", [0, 1])
def test_every_colour_reads_on_its_paper(paper: int) -> None:
    for name, pair in COLOURS.items():
        assert contrast(pair[paper], PAPER[paper]) >= 4.5, name
    for a, b in combinations([pair[paper] for pair in SERIES], 2):
        assert a != b
    assert len(MARKERS) == len(SERIES)


def test_a_figure_is_well_formed_and_described() -> None:
    text = draw("toy.one")
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'what it shows, "quoted" & all'
    assert text.startswith("<svg")
    assert "A &lt; B &amp; C" in text  # text stays text
    assert draw("toy.one") == text  # the same figure again is the same file


def test_colours_are_variables_and_nothing_leaks_into_the_page() -> None:
    text = draw("toy.one")
    body = text[text.index("</style>") :]
    for name in ("ink", "muted", "series-1", "series-2", "series-3", "series-4"):
        assert f"var(--{name}, " in body
    assert not re.search(r"(?<!, )#[0-9a-f]{6}\b", body.replace("#000000", ""))
    for rule in re.findall(r"([^{}]+)\{", "".join(re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL))):
        assert rule.strip().startswith(("svg.exhibit", "@media"))


def test_ids_of_two_figures_never_meet() -> None:
    one, two = draw("toy.one"), draw("toy.two")
    ids = [set(re.findall(r'id="([^"]+)"', text)) for text in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= own
