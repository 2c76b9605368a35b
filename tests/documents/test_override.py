"""`--set a.b=value`: values in TOML's notation, text where it isn't that."""

from pathlib import Path
from typing import Any

import pytest

from grainline.documents import GrainlineError, Recipe, override


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a.b=1", {"a": {"b": 1, "c": 2}}),
        ("a.b=1e-3", {"a": {"b": 1e-3, "c": 2}}),
        ("a.b=true", {"a": {"b": True, "c": 2}}),
        ('a.b="1"', {"a": {"b": "1", "c": 2}}),
        ("a.b=word", {"a": {"b": "word", "c": 2}}),
        ("a.b=runs/x y.txt", {"a": {"b": "runs/x y.txt", "c": 2}}),
        ("a.b=[1, 2]", {"a": {"b": [1, 2], "c": 2}}),
        ("a.b=x=y", {"a": {"b": "x=y", "c": 2}}),
        ("a.b=", {"a": {"b": "", "c": 2}}),
        ("d.e.f=3", {"a": {"b": 0, "c": 2}, "d": {"e": {"f": 3}}}),
        ("a={b = 4}", {"a": {"b": 4}}),
        (" a.b = 5", {"a": {"b": 5, "c": 2}}),
    ],
)
def test_assignment(assignment: str, expected: dict[str, Any]) -> None:
    tables = {"a": {"b": 0, "c": 2}}
    assert override(tables, [assignment]) == expected
    assert tables == {"a": {"b": 0, "c": 2}}


def test_later_assignments_win() -> None:
    assert override({}, ["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize("assignment", ["a", "=1", "a..b=1", ".a=1", ""])
def test_what_is_no_assignment_is_answered_by_an_example(assignment: str) -> None:
    with pytest.raises(GrainlineError, match=r"write KEY=VALUE, as in --set optimizer\.weight_decay=0\.1"):
        override({}, [assignment])


def test_a_value_has_no_keys() -> None:
    with pytest.raises(GrainlineError, match="'b' is looked for in a value"):
        override({"a": 1}, ["a.b=2"])


def test_loading_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[model]\ndepth = 4\n[training]\nsteps = 10\nbatch_tokens = 1024\n[learning_rate]\npeak = 1e-3\n")
    recipe = Recipe.load(path, ["optimizer.weight_decay=0.2", "name=second try"])
    assert (recipe.optimizer.weight_decay, recipe.name) == (0.2, "second try")
    with pytest.raises(GrainlineError, match="Did you mean 'weight_decay'"):
        Recipe.load(path, ["optimizer.weight_decy=0.2"])
