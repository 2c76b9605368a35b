"""Filter pipelines as documents: what is refused, by key; alternatives; and the truth that they are held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grainline.documents import DocumentError, GrainlineError
from grainline.documents.filter_checks import assigned
from grainline.documents.filters import Filters

GAUSSIAN = {"kind": "gaussian", "skill": 2.0, "sigma": 1.0}


def tables() -> dict[str, Any]:
    return {
        "sources": {
            "a": {"bytes": 100, "rate_hz": 1000, "to": "merge"},
            "b": {"bytes": 50, "rate_hz": 1000, "to": "merge"},
        },
        "stages": {
            "merge": {"to": "filter"},
            "filter": {"to": "end", "reduction": 10, "classifier": GAUSSIAN},
            "end": {},
        },
        "alternatives": {
            "sharp": {"stages.filter.classifier.skill": 4.0},
            "other": {"stages.filter.classifier": {"kind": "point", "irrelevant_pass": 0.1, "relevant_pass": 1.0}},
            "harder": {"stages.filter.reduction": 100},
        },
    }


def test_truth_is_the_room_at_the_end_and_stays_with_alternatives() -> None:
    filters = Filters.parse(tables())
    assert filters.relevant_hz == pytest.approx(100)
    harder = filters.overlaid(("harder", "sharp"))
    assert harder.stages["filter"].reduction == 100
    assert harder.stages["filter"].classifier.skill == 4.0
    assert harder.relevant_hz == pytest.approx(100)
    assert list(filters.order())[-1] == filters.end == "end"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("stages.end.to", "merge", "stages: .*filter.* is a ring"),
        ("stages.stray", {}, "stages: end, stray go nowhere, and one end is wanted"),
        ("stages.stray", {"to": "end"}, "stages.stray: no source and no stage goes to it"),
        ("sources.a.to", "filtre", r"sources.a.to: no stage is named 'filtre'. Did you mean 'filter'\?"),
        ("stages.filter.reduction", 0.5, "stages.filter.reduction: must be greater than or equal to 1, not 0.5"),
        ("sources.a", {"bytes": 1, "to": "merge"}, "sources.a.rate_hz: is required"),
        ("sources.a", {"bytes": 1, "rate": 5, "to": "merge"}, r"sources.a.rate: unknown key. Did you mean 'rate_hz'\?"),
        ("sources.a.bytes", "1.44 MB", "sources.a.bytes: must be a number, not '1.44 MB'"),
        ("relevant_rate_hz", 2000, "relevant_rate_hz: 2000 is more than the 1000 messages per second"),
        ("stages.filter.classifier.sigma", 0, "sigma: must be greater than 0, not 0"),
        ("stages.filter.classifier.scores", "x.csv", "kind 'gaussian' has no scores"),
        ("stages.filter.classifier", {"kind": "point", "relevant_pass": 1}, "also needs irrelevant_pass"),
        ("stages.filter.classifier", {"kind": "pass"}, "stages.filter.reduction: 10 needs a classifier"),
        ("sources.a.rate_hz", 999, "stages.merge.merge: its inputs come at unequal rates, 999 to 1000 per second"),
        ("technology.year", 2050, "year 2050 lies outside fit_years 2022 to 2037"),
        ("stages.filter.work", {"per_bytes": 1, "table": "x.csv"}, "set exactly one of per_bytes, table, profile"),
        ("alternatives.bad", {"stages.filtr.reduction": 2}, r"'stages.filtr.reduction' leads to no key.*'filter'\?"),
        ("sources.end", {"bytes": 1, "rate_hz": 1, "to": "merge"}, "'end' is a source, too"),
    ],
)
def test_what_cant_be_is_refused(key: str, value: Any, words: str) -> None:
    with pytest.raises(DocumentError, match=words) as caught:
        Filters.parse(assigned(tables(), key, value), where="mine.toml")
    assert str(caught.value).startswith("mine.toml: ")


def test_one_part_of_a_message_is_not_filtered_alone() -> None:
    found = tables()
    found["stages"]["early"] = {"to": "merge", "reduction": 2, "classifier": GAUSSIAN}
    found["sources"]["a"]["to"] = "early"
    with pytest.raises(DocumentError, match=r"stages.early: filters one part .* set stages.merge.merge = 'sum'"):
        Filters.parse({**found, "relevant_rate_hz": 50})


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("sharpe",), r"no alternative 'sharpe'. Did you mean 'sharp'\?"),
        (("sharp", "other"), "alternatives sharp and other both set stages.filter.classifier"),
    ],
)
def test_alternatives_that_cant_be_taken(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(GrainlineError, match=words):
        Filters.parse(tables()).overlaid(names, "mine.toml")


def test_an_alternative_that_sets_nonsense_is_named() -> None:
    found = assigned(tables(), "alternatives.bad", {"stages.filter.reduction": "many"})
    with pytest.raises(DocumentError, match=r"mine.toml with bad: stages.filter.reduction: must be a number"):
        Filters.parse(found).overlaid(("bad",), "mine.toml")


def test_ways_that_reduce_unequally_need_a_rate() -> None:
    found = assigned(tables(), "stages.merge.merge", "sum")
    found["stages"]["early"] = {"to": "merge", "reduction": 2, "classifier": GAUSSIAN}
    found["sources"]["a"]["to"] = "early"
    with pytest.raises(GrainlineError, match="relevant_rate_hz: is required"):
        _ = Filters.parse(found).relevant_hz


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    filters = Filters.parse(tables())
    filters.save(tmp_path / f"f{suffix}")
    assert Filters.load(tmp_path / f"f{suffix}") == filters
