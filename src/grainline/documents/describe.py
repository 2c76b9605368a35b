"""From pydantic's errors to sentences for people: the key as they would write it, what was wrong, what is right."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from grainline.documents.errors import nearest

WANTED = {
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
}


def describe(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One sentence for each thing wrong; a value that fits none of several types is one thing."""
    sentences: dict[str, list[str]] = {}
    listed: set[str] = set()  # lists of known keys that were told already
    errors = error.errors()
    for one in errors:
        if one["type"] == "too_short" and any(_lies_in(other["loc"], one["loc"]) for other in errors):
            continue  # pydantic counts only the entries that are right, and tells of the wrong ones besides
        key, owner = _place(model, one["loc"])
        what = _what(model, owner, one)
        first, known, names = what.partition(" Known here:")
        sentences.setdefault(key, []).append(first if names in listed else what)
        listed |= {names} if known else set()
    return [f"{key}: {' or '.join(_merged(whats))}" if key else _merged(whats)[0] for key, whats in sentences.items()]


def _what(model: type[BaseModel], owner: Any, error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "is required."
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        close = nearest(name, owner.model_fields if _is_table(owner) else ())
        homes = [] if "Did you mean" in close else sorted(_homes(model, name))
        return f"unknown key.{f' It belongs to {homes[0]}.' if len(homes) == 1 else close}"
    if error["type"] == "value_error":  # our own words
        message = str(error["msg"]).removeprefix("Value error, ")
    else:
        message = WANTED.get(error["type"]) or error["msg"].replace("Input should", "must", 1)
    if error["type"] in ("too_short", "too_long"):
        bound = "at least {min_length}" if error["type"] == "too_short" else "at most {max_length}"
        return f"must hold {bound.format(**error['ctx'])}, not {error['ctx']['actual_length']}."
    given = error["input"]
    if isinstance(given, bool):
        return f"{message}, not {str(given).lower()}."
    if isinstance(given, str | int | float):
        return f"{message}, not {given!r}."
    return message if message.endswith((".", "?")) else f"{message}."


def _merged(whats: list[str]) -> list[str]:
    """``must be a number, not 'x'.`` and ``must be a list, not 'x'.`` as one sentence with the value at its end."""
    return [*(w.split(", not ")[0].rstrip(".") for w in whats[:-1]), whats[-1]]


def _place(model: type[BaseModel], location: tuple[str | int, ...]) -> tuple[str, Any]:
    """(the key, as in ``device_types[2].name``; the type of the table that holds it)."""
    key, owner = "", None
    found: Any = model
    for step in location:
        if isinstance(step, int):
            key += f"[{step}]"
            found = _inside(found, (tuple, list))
            continue
        table = _inside(found, ())
        mapping = _inside(found, (dict,))
        if _is_table(table):
            owner, found = table, table.model_fields[step].annotation if step in table.model_fields else None
        elif mapping is not None:
            owner, found = None, mapping
        elif step != location[-1] or key:
            continue  # the name of one member of a union
        key += f".{step}" if key else step
    return key, owner


def _lies_in(location: tuple[str | int, ...], table: tuple[str | int, ...]) -> bool:
    return len(location) > len(table) and location[: len(table)] == table


def _inside(annotation: Any, containers: tuple[type, ...]) -> Any:
    """The one table type that an annotation may be; or, with `containers`, what one of those in it holds."""
    if get_origin(annotation) is Annotated:
        return _inside(get_args(annotation)[0], containers)
    if get_origin(annotation) in (Union, UnionType):
        found = [m for m in (_inside(a, containers) for a in get_args(annotation)) if m is not None]
        return found[0] if len(found) == 1 else None
    if containers:
        return get_args(annotation)[-1 if dict in containers else 0] if get_origin(annotation) in containers else None
    return annotation if _is_table(annotation) else None


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _homes(model: type[BaseModel], name: str, path: str = "") -> Iterator[str]:
    """Tables of the document that do know a key of this name."""
    for key, field in model.model_fields.items():
        table = _inside(field.annotation, ()) or _inside(_inside(field.annotation, (tuple, list)), ())
        if _is_table(table):
            where = f"{path}.{key}" if path else key
            if name in table.model_fields:
                yield f"[{where}]"
            yield from _homes(table, name, where)
