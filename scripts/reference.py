"""Reference tables of the documentation, made from the code at every build so that they can't go stale.

mkdocs calls `on_page_markdown` (hooks in mkdocs.yml). A line ``<!-- fields of Recipe -->`` becomes the tables of that
document, and ``<!-- verbs -->`` the verbs of the command line.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from grainline.cli import VERBS
from grainline.cli.arguments import Settings
from grainline.documents import Cluster, Document, ModelConfig, Plan, Recipe

DOCUMENTS = {document.__name__: document for document in (ModelConfig, Recipe, Cluster, Plan)}
WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
BAR = r"\|"
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def on_page_markdown(markdown: str, **_: object) -> str:
    """mkdocs' hook: the page with its marks replaced."""
    markdown = re.sub(r"<!-- fields of (\w+) -->", lambda found: fields(DOCUMENTS[found[1]]), markdown)
    return re.sub(r"<!-- verbs -->", lambda _: verbs(), markdown)


def fields(document: type[Document]) -> str:
    """Markdown: one table per table of the document."""
    parts = []
    for name, many, model in _tables(document, ""):
        heading = f"`[[{name}]]`" if many else f"`[{name}]`" if name else f"Top of a {document.kind}"
        intro = (model.__doc__ or "").strip().replace("\n    ", "\n")
        rows = [_row(key, field) for key, field in model.model_fields.items()]
        table = "\n".join(["| key | is | default | meaning |", "|---|---|---|---|", *rows])
        parts.append(f"### {heading}\n\n{intro}\n\n{table}\n")
    return "\n".join(parts)


def verbs() -> str:
    """Markdown: every verb, what it does, and its arguments."""
    parts = []
    for title, group in VERBS.items():
        parts.append(f"## {title}\n")
        for name, verb in group.items():
            run = importlib.import_module(f"grainline.cli.{verb.module}").run
            said, _, told = (inspect.getdoc(run) or "").partition("\nArgs:\n")
            said = re.sub(r"(?m)^((?:  .*\n?)+)", lambda indented: _shell(indented[1]), said)
            meanings = dict(re.findall(r"(?ms)^    (\w+): (.*?)(?=\n    \w|\Z)", told))
            parts.append(f"### grainline {name}\n\n{said}\n\n| argument | default | meaning |\n|---|---|---|")
            parts += [
                f"| `{_argument(p)}` | {_left_out(p)} | {' '.join(meanings[p.name].split()).replace('|', BAR)} |"
                for p in inspect.signature(run, eval_str=True).parameters.values()
            ]
            parts.append("")
    return "\n".join(parts)


def _shell(indented: str) -> str:
    return f"```sh\n{textwrap.dedent(indented).strip()}\n```\n"


def _argument(parameter: inspect.Parameter) -> str:
    """How it is typed, as in ``--text VALUE …``."""
    annotation, option = parameter.annotation, f"--{parameter.name.replace('_', '-')}"
    many = "tuple" in str(annotation)
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        word = parameter.name.upper() + " …" * many
        return word if parameter.default is inspect.Parameter.empty else f"[{word}]"
    if annotation is bool:
        return option.replace("--", "--no-", 1) if parameter.default else option
    if annotation is Settings:
        return f"{option} KEY=VALUE"
    return f"{option} {parameter.name.upper()}{' …' * many}"


def _left_out(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is inspect.Parameter.empty:
        return "**required**"
    return "" if default is None or isinstance(default, bool) or default == () else f"`{default}`"


def _tables(model: type[BaseModel], name: str, many: bool = False) -> Iterator[tuple[str, bool, type[BaseModel]]]:
    """(dotted name, whether it is a list of tables, type) of a table and those inside it; other documents apart."""
    yield name, many, model
    for key, field in model.model_fields.items():
        for inner, listed in _models(field.annotation):
            if not issubclass(inner, Document):
                yield from _tables(inner, f"{name}.{key}" if name else key, listed)


def _models(annotation: Any, listed: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, listed
    for inner in get_args(annotation):
        yield from _models(inner, listed or get_origin(annotation) is tuple)


def _row(key: str, field: FieldInfo) -> str:
    kind = _kind(Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation)
    return f"| `{key}` | {kind} | {_default(field)} | {_meaning(field).replace('|', BAR)} |"


def _meaning(field: FieldInfo) -> str:
    """What a field says of itself, or what the table that it holds does."""
    if field.description:
        return field.description
    tables = [inner for inner, _ in _models(field.annotation) if not issubclass(inner, Document)]
    return (tables[0].__doc__ or "").strip().splitlines()[0] if tables else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    return "" if value is None else f"`{json.dumps(value)}`"


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [rule for given in inside[1:] for rule in (given.metadata if isinstance(given, FieldInfo) else [given])]
        bounds = {sign: getattr(rule, name) for rule in rules for name, sign in BOUNDS.items() if hasattr(rule, name)}
        if "≥" in bounds:
            bounds.pop(">", None)  # "positive, and at least 8"
        return f"{_kind(inside[0])} {', '.join(f'{sign} {bound}' for sign, bound in bounds.items())}".strip()
    if origin in (Union, UnionType):
        return " or ".join(_kind(a) for a in inside if a is not NoneType)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in inside)
    if origin is tuple:
        return f"list of {_kind(inside[0])}" if inside[-1] is Ellipsis else f"{len(inside)} × {_kind(inside[0])}"
    if origin is dict:
        return f"table of {_kind(inside[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return f"a {annotation.kind}"
    return WORDS.get(annotation, "table")
