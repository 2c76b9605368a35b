"""How every document is read, checked, migrated, overridden and written: TOML or JSON, errors by file and key."""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from grainline.documents.errors import DocumentError, GrainlineError, nearest

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
        return cls.parse(override(read_tables(path), overrides), where=path)

    @classmethod
    def parse(cls, tables: Mapping[str, Any], where: str | Path = "<memory>") -> Self:
        """Check plain tables and build the document; `where` names their source in errors."""
        tables = cls._migrated(dict(tables), where)
        try:
            return cls.model_validate(tables)
        except ValidationError as error:
            raise DocumentError((describe(cls, e) for e in error.errors()), where) from None

    @classmethod
    def _migrated(cls, tables: dict[str, Any], where: str | Path) -> dict[str, Any]:
        found = tables.get("schema_version", cls.version)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise DocumentError([f"schema_version: must be a whole number from 1 to {cls.version}, not {found!r}."], where)
        if found > cls.version:
            raise DocumentError(
                [
                    f"schema_version: this {cls.kind} has version {found}; this grainline reads up to {cls.version}. "
                    "Upgrade grainline."
                ],
                where,
            )
        for version in range(found, cls.version):
            tables = cls.migrations[version](tables)
        return {**tables, "schema_version": cls.version}

    def tables(self) -> dict[str, Any]:
        """Plain tables of what was said, without keys left at None."""
        return self.model_dump(mode="json", exclude_none=True)

    def save(self, path: str | Path) -> None:
        """Write TOML or JSON by the suffix, whole or not at all."""
        path = Path(path)
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
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DocumentError(["no such file."], path) from None
    except IsADirectoryError:
        raise DocumentError(["is a folder; a .toml or .json file is wanted."], path) from None
    except UnicodeDecodeError:
        raise DocumentError(["is not UTF-8 text; a .toml or .json file is wanted."], path) from None
    try:
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise DocumentError([f"is not well-formed {path.suffix[1:].upper() or 'TOML'}: {error}."], path) from None
    if not isinstance(tables, dict):
        raise DocumentError(["must hold a table of keys at the top."], path)
    return tables


def write_atomically(path: Path, text: str) -> None:
    """Write beside, then rename: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
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


def describe(model: type[BaseModel], error: ErrorDetails) -> str:
    """One pydantic error as ``key: what was wrong. What to do.``"""
    location = error["loc"]
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        owner = _owner(model, location[:-1])
        return f"{key}: unknown key.{nearest(str(location[-1]), owner.model_fields if owner else ())}"
    if error["type"] == "missing":
        return f"{key}: is required."
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:] if not message.startswith("'") else message
    given = f", not {error['input']!r}" if isinstance(error["input"], str | int | float | bool) else ""
    return f"{key}: {message}{given}." if key else f"{message.rstrip('.')}."


def _owner(model: type[BaseModel], location: Iterable[str | int]) -> type[BaseModel] | None:
    """The table type that a location inside a document leads to."""
    found: Any = model
    for step in location:
        if isinstance(step, int):
            continue
        field = found.model_fields.get(step) if _is_model(found) else None
        if field is None:
            continue  # the tag of a union, or an entry of a mapping
        found = _model_in(field.annotation)
        if found is None:
            return None
    return found


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _model_in(annotation: Any) -> Any:
    """The one table type inside an annotation such as ``tuple[Device, ...]`` or ``Moe | None``."""
    if _is_model(annotation):
        return annotation
    if get_origin(annotation) in (Union, UnionType, tuple, list, dict):
        inner = [m for m in map(_model_in, get_args(annotation)) if m is not None]
        return inner[0] if len(inner) == 1 else None
    return None
