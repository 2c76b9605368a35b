"""Tasks from JSONL files: one example a line, its keys say which kind of task it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grainline.documents import DocumentError, nearest
from grainline.eval.tasks.continuation import Continuation, Passage
from grainline.eval.tasks.multiple_choice import MultipleChoice, Question
from grainline.eval.tasks.task import EvalTask

SHAPES = (
    'Each line is {"context": text, "choices": [text, …], "answer": index} '
    'or {"context": text, "continuation": text}, all lines of one kind.'
)


def read_task(path: str | Path) -> EvalTask:
    """The task in a JSONL file. Keys beyond those needed are kept with the samples.

    Raises DocumentError naming file and line.
    """
    path = Path(path)
    lines = [(number, line) for number, line in enumerate(_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise DocumentError([f"holds no examples. {SHAPES}"], path)
    rows = [_row(path, number, line) for number, line in lines]
    if "choices" in rows[0][1]:
        return MultipleChoice(path.stem, tuple(_question(path, number, row) for number, row in rows))
    return Continuation(path.stem, tuple(_passage(path, number, row) for number, row in rows))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DocumentError(["no such file."], path) from None
    except IsADirectoryError:
        raise DocumentError([f"is a folder; a .jsonl file is wanted. {SHAPES}"], path) from None
    except UnicodeDecodeError:
        raise DocumentError(["is not UTF-8 text."], path) from None


def _row(path: Path, number: int, line: str) -> tuple[int, dict[str, Any]]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DocumentError([f"line {number}: is not JSON ({error.msg}, column {error.colno})."], path) from None
    if not isinstance(row, dict):
        raise DocumentError([f"line {number}: must be an object. {SHAPES}"], path)
    return number, row


def _question(path: Path, number: int, row: Mapping[str, Any]) -> Question:
    context, choices, answer = (_value(path, number, row, key) for key in ("context", "choices", "answer"))
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise DocumentError([f"line {number}: choices: must be a list of two or more texts, none empty."], path)
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise DocumentError(
            [f"line {number}: answer: must be the index of a choice, 0 to {len(choices) - 1}, not {answer!r}."], path
        )
    return Question(_string(path, number, "context", context), tuple(choices), answer, _rest(row, "choices", "answer"))


def _passage(path: Path, number: int, row: Mapping[str, Any]) -> Passage:
    context, continuation = (
        _string(path, number, key, _value(path, number, row, key)) for key in ("context", "continuation")
    )
    if not continuation:
        raise DocumentError([f"line {number}: continuation: is empty."], path)
    return Passage(context, continuation, _rest(row, "continuation"))


def _value(path: Path, number: int, row: Mapping[str, Any], key: str) -> Any:
    if key not in row:
        near = next((f" Did you mean '{key}' by '{k}'?" for k in row if nearest(k, [key]).startswith(" Did")), "")
        raise DocumentError([f"line {number}: '{key}' is missing.{near} {SHAPES}"], path)
    return row[key]


def _string(path: Path, number: int, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DocumentError([f"line {number}: {key}: must be a text, not {type(value).__name__}."], path)
    return value


def _rest(row: Mapping[str, Any], *used: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("context", *used)}
