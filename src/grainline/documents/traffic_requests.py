"""Lists of requests, as logs have them: tokens in and out, and when they came."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from grainline.documents.base import Part
from grainline.documents.errors import DocumentError


class Request(Part):
    """One of a list."""

    input_tokens: PositiveInt
    output_tokens: PositiveInt
    time: float | None = None  # of arrival, in seconds


NAMES: Mapping[str, str] = {
    "input_tokens": "input_tokens",
    "prompt_tokens": "input_tokens",
    "contexttokens": "input_tokens",
    "output_tokens": "output_tokens",
    "completion_tokens": "output_tokens",
    "generatedtokens": "output_tokens",
    "time": "time",
    "timestamp": "time",
}
"""Columns as logs name them → ours; the OpenAI API's `usage` and the Azure traces' among them."""


def read_requests(path: Path) -> list[Request]:
    """Of a CSV file with a header, or of a JSON object a line. Raises DocumentError with the line that isn't right."""
    found = []
    for line, row in _rows(path):
        named = {NAMES[key.strip().lower()]: value for key, value in row.items() if key.strip().lower() in NAMES}
        missing = [key for key in ("input_tokens", "output_tokens") if key not in named]
        if missing:
            raise DocumentError([f"line {line}: has no {' and no '.join(missing)}."], path)
        try:
            tokens = {key: int(named[key]) for key in ("input_tokens", "output_tokens")}
            time = float(named["time"]) if named.get("time") not in (None, "") else None
        except (TypeError, ValueError):
            raise DocumentError(
                [f"line {line}: numbers of tokens, and seconds, are wanted: {dict(row)}."], path
            ) from None
        if min(tokens.values()) < 1:
            raise DocumentError([f"line {line}: a request has at least one token in and one out."], path)
        found.append(Request(**tokens, time=time))
    if not found:
        raise DocumentError(["holds no requests: traffic without any needs no devices."], path)
    return found


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DocumentError([f"can't be read: {error.strerror}."], path) from None
    except UnicodeDecodeError:
        raise DocumentError(["is not UTF-8 text."], path) from None
    if path.suffix == ".csv":
        yield from ((i, row) for i, row in enumerate(csv.DictReader(text.splitlines()), 2) if any(row.values()))
        return
    for i, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DocumentError([f"line {i} is not well-formed JSON: {error}."], path) from None
            if not isinstance(row, dict):
                raise DocumentError([f"line {i} holds no JSON object."], path)
            yield i, row
