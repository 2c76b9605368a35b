"""Provenance files as HTML: the few forms they use, and nothing else."""

from __future__ import annotations

from grainline.data import builtin
from grainline.quickstart.prose import to_html

from .reading import parse, table_rows

FORMS = """\
# A *b*

one
two `x < *y*` and **bold**

- first
  goes on
- second

| a | b |
|---|---|
| 1 | c\\|d |
"""


def test_the_forms() -> None:
    tree = parse(to_html(FORMS))
    assert [e.text for e in tree.all("h3")] == ["A b"]
    assert tree.all("p")[0].text == "one\ntwo x < *y* and bold"
    assert tree.all("code")[0].text == "x < *y*"
    assert [e.text for e in tree.all("li")] == ["first\ngoes on", "second"]
    assert table_rows(tree.all("table")[0]) == [["a", "b"], ["1", "c|d"]]


def test_everything_else_is_text() -> None:
    tree = parse(to_html("<b onclick=x>a</b> [x](javascript:y) 2 * 3 * 4 | not | a table"))
    assert tree.text == "<b onclick=x>a</b> [x](javascript:y) 2 * 3 * 4 | not | a table"
    assert [e.tag for e in tree.all()] == ["p"]


def test_the_built_in_corpus_has_a_row_for_each_source() -> None:
    text = (builtin.CORPUS / "SOURCES.md").read_text(encoding="utf-8")
    rows = table_rows(parse(to_html(text)).all("table")[0])
    assert {len(row) for row in rows} == {5}
    assert {part for row in rows[1:] for part in row[1].split()} == set(builtin.parts())
