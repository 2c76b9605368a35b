"""An old document goes on working; one that is too new is refused by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from grainline.documents import Cluster, Document, DocumentError, ModelConfig, Part, Plan, Recipe
from grainline.documents.base import Migration


class Cake(Document):
    """Version 1 said `fat`, version 2 said `butter`, version 3 has it in a table."""

    kind: ClassVar[str] = "cake"
    version: ClassVar[int] = 3
    migrations: ClassVar[Mapping[int, Migration]] = {
        1: lambda tables: {("butter" if key == "fat" else key): value for key, value in tables.items()},
        2: lambda tables: {k: v for k, v in tables.items() if k != "butter"} | {"dough": {"butter": tables["butter"]}},
    }

    class Dough(Part):
        butter: int

    dough: Dough


class Party(Document):
    kind: ClassVar[str] = "party"

    cake: Cake


@pytest.mark.parametrize(
    "tables",
    [
        {"schema_version": 1, "fat": 5},
        {"schema_version": 2, "butter": 5},
        {"schema_version": 3, "dough": {"butter": 5}},
        {"dough": {"butter": 5}},
    ],
)
def test_every_version_reads_as_todays(tables: dict[str, Any]) -> None:
    before = dict(tables)
    cake = Cake.parse(tables)
    assert (cake.dough.butter, cake.schema_version) == (5, 3)
    assert tables == before, "the caller's tables are left alone"


def test_a_document_inside_another_migrates_too() -> None:
    assert Party.parse({"cake": {"schema_version": 1, "fat": 5}}).cake.dough.butter == 5


def test_overrides_speak_of_todays_keys(tmp_path: Path) -> None:
    (tmp_path / "cake.toml").write_text("schema_version = 1\nfat = 5\n")
    assert Cake.load(tmp_path / "cake.toml", ["dough.butter=7"]).dough.butter == 7


@pytest.mark.parametrize("document", [Recipe, ModelConfig, Plan, Cluster])
def test_a_newer_document_is_refused_with_what_to_do(document: type[Document]) -> None:
    with pytest.raises(DocumentError) as caught:
        document.parse({"schema_version": document.version + 1}, where="new.toml")
    assert str(caught.value) == (
        f"new.toml: schema_version: this {document.kind} has version {document.version + 1}, "
        f"and this grainline reads up to {document.version}. Upgrade grainline."
    )


@pytest.mark.parametrize("version", [0, -1, "1", 1.5, True, None])
def test_a_version_is_a_whole_number_from_one(version: object) -> None:
    with pytest.raises(DocumentError, match="schema_version: must be a whole number from 1"):
        Plan.parse({"schema_version": version})


@pytest.mark.parametrize("document", [Recipe, ModelConfig, Plan, Cluster])
def test_every_version_has_its_migration(document: type[Document]) -> None:
    assert set(document.migrations) == set(range(1, document.version))
