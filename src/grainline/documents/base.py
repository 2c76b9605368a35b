"""How every document is read, checked, migrated, overridden and written: TOML or JSON, errors by file and key."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from grainline.documents.describe import describe
from grainline.documents.errors import DocumentError, GrainlineError

Migration = Callable[[dict[str, Any]], dict[str, Any]]


class Part(BaseModel):
    """A table inside a document: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")


class Document(Part):
    """A whole document. A subclass sets `kind` (how errors name it), `version`, and its `migrations`.

    `migrations[v]` takes the raw tables of version v to version v + 1, so that an old file goes on working.
    """

    kind: ClassVar[str] = "document"
    version: ClassVar[int] = 1
    migrations: ClassVar[Mapping[int, Migration]] = {}

    schema_version: int = 1

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Self:
        """Read a `.toml` or `.json` file; `overrides` are ``a.b=value`` strings, values in TOML's notation."""
        path = Path(path)
        try:
            tables = cls.migrated(read_tables(path))  # first, so that overrides may speak of today's keys
        except ValueError as error:
            raise DocumentError([f"{error}."], path) from None
        return cls.parse(override(tables, overrides), where=path)

    @classmethod
    def parse(cls, tables: Mapping[str, Any], where: str | Path = "<memory>") -> Self:
        """Check plain tables and build the document; `where` names their source in errors.

        Nothing is guessed: text is no number and true isn't 1. A whole number may be written as 80e9.
        """
        try:
            return cls.model_validate(_exact(tables), strict=True)
        except ValidationError as error:
            raise DocumentError(describe(cls, error), where) from None

    @classmethod
    def migrated(cls, tables: Mapping[str, Any]) -> dict[str, Any]:
        """Tables of any version up to today's as tables of today's; ValueError if they are newer or of no version."""
        found = tables.get("schema_version", cls.version)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise ValueError(f"schema_version: must be a whole number from 1 to {cls.version}, not {found!r}")
        if found > cls.version:
            raise ValueError(
                f"schema_version: this {cls.kind} has version {found}, and this grainline reads up to {cls.version}. "
                "Upgrade grainline"
            )
        tables = dict(tables)
        for version in range(found, cls.version):
            tables = cls.migrations[version](tables)
        return {**tables, "schema_version": cls.version}

    @model_validator(mode="before")
    @classmethod
    def _migrate(cls, tables: Any) -> Any:
        """Also where one document lies inside another, as a model config in a recipe."""
        return cls.migrated(tables) if isinstance(tables, Mapping) else tables

    def tables(self) -> dict[str, Any]:
        """Plain tables of what was said, without keys left at None."""
        return self.model_dump(mode="json", exclude_none=True)

    def save(self, path: str | Path) -> None:
        """Write TOML or JSON by the suffix, whole or not at all."""
        path = Path(path)
        if path.suffix not in (".toml", ".json"):
            raise DocumentError([f"a {self.kind} is written to a name that ends in .toml or .json."], path)
        if path.suffix == ".json":
            text = json.dumps(self.tables(), indent=2, ensure_ascii=False) + "\n"
        else:
            text = tomli_w.dumps(self.tables())
        write_atomically(path, text)


def read_tables(path: Path) -> dict[str, Any]:
    """The raw tables of a TOML or JSON file.

    Raises DocumentError if the file is missing, isn't text, or isn't well-formed (with line and column).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark in front
    except FileNotFoundError:
        raise DocumentError(["no such file."], path) from None
    except IsADirectoryError:
        raise DocumentError(["is a folder; a .toml or .json file is wanted."], path) from None
    except UnicodeDecodeError:
        raise DocumentError(["is not UTF-8 text; a .toml or .json file is wanted."], path) from None
    notation = "JSON" if path.suffix == ".json" else "TOML"
    try:
        tables = json.loads(text, object_pairs_hook=_distinct) if notation == "JSON" else tomllib.loads(text)
    except ValueError as error:
        raise DocumentError([f"is not well-formed {notation}: {error}."], path) from None
    if not isinstance(tables, dict):
        raise DocumentError(["must hold a table of keys at the top."], path)
    return tables


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a key be given twice and takes the last; TOML doesn't, and neither do we."""
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"the key '{key}' is given {count} times in one table")
    return dict(pairs)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there; raises GrainlineError where none can be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise GrainlineError(f"{path}: no folder can be made there ({error.strerror}). Name another.") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside, then rename: a reader sees the old file or the new one, never half of one."""
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def override(tables: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `tables` with ``a.b=value`` assignments made; a value that isn't TOML is taken as a string."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        names = key.strip().split(".")
        if not equals or not all(names):
            raise GrainlineError(f"--set {assignment}: write KEY=VALUE, as in --set optimizer.weight_decay=0.1.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        tables = _assigned(tables, names, value, assignment)
    return tables


def _assigned(tables: Any, names: list[str], value: Any, assignment: str) -> dict[str, Any]:
    if not isinstance(tables, dict):
        raise GrainlineError(f"--set {assignment}: '{names[0]}' is looked for in a value, not in a table.")
    head, *rest = names
    return {**tables, head: _assigned(tables.get(head, {}), rest, value, assignment) if rest else value}


def _exact(value: Any) -> Any:
    """Lists as tuples and whole floats as integers: what strict checking wants for what TOML and JSON can say."""
    if isinstance(value, Mapping):
        return {key: _exact(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_exact(entry) for entry in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
