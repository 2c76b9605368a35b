"""The gallery: every result on one self-contained page, figures inside, for light and for dark screens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grainline.exhibits.frame import Claim, Result, judge
from grainline.exhibits.keep import Kept
from grainline.exhibits.render import MARKS, error_bar, number


@dataclass(frozen=True)
class Card:
    """A result with the lines under it."""

    result: Result
    origin: str  # where and when it was measured

    @property
    def mark(self) -> str:
        """The verdict's sign, so that colour isn't all that tells them apart."""
        return MARKS[self.result.verdict][0]

    @property
    def measured(self) -> str:
        """The figure with its error bar."""
        return "" if self.result.measured is None else f"{number(self.result.measured)} {error_bar(self.result)}"

    @property
    def seeds(self) -> str:
        """As a person would list them."""
        return ", ".join(map(str, self.result.seeds))


def cards(claims: Iterable[Claim], kept: Mapping[str, Kept], fresh: Sequence[Result] = ()) -> list[Card]:
    """One card for each claim: the kept full result if there is one, else what was just measured, else "not run"."""
    measured = {result.name: result for result in fresh if result.verdict != "not-run"}
    found = []
    for claim in claims:
        if (result := measured.get(claim.name)) is not None and not (result.quick and claim.name in kept):
            found.append(Card(result, "measured just now"))
        elif claim.name in kept:
            found.append(Card(kept[claim.name].result, origin(kept[claim.name])))
        else:
            found.append(Card(judge(claim, None, quick=False), "not measured yet"))
    return found


def origin(kept: Kept) -> str:
    """Machine, time and commit in a line."""
    machine = kept.machine
    devices = ", ".join([f"{machine['cpu']}, {machine['threads']} threads", *machine["accelerators"]])
    return (
        f"{devices}, {machine['memory_gib']} GiB, torch {machine['torch']}; "
        f"{kept.measured_at[:10]}, {kept.seconds:,.0f} s, commit {kept.commit[:12]}"
    )


def page(cards: Sequence[Card]) -> str:
    """The HTML."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    counts = {verdict: sum(card.result.verdict == verdict for card in cards) for verdict in MARKS}
    return environment.get_template("gallery.html.j2").render(cards=cards, counts=counts, number=number)
