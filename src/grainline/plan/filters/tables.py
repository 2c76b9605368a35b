"""The .csv files that a filter pipeline names: scores, curves, work by size, and a stage's profile. docs/filters.md."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grainline.documents import GrainlineError, nearest

Column = NDArray[np.float64]
CURVE = ("score", "irrelevant_below", "relevant_below")
SAMPLES = ("score", "relevant")
SIZES = ("bytes", "units")
PROFILE = ("bytes", "seconds", "score", "relevant")


def read_columns(path: Path, *choices: Sequence[str]) -> tuple[Column, ...]:
    """The columns of the first of `choices` that are all there; other columns are passed over.

    Raises GrainlineError that names file, line and column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row and not row[0].lstrip().startswith("#")]
    except OSError as error:
        raise GrainlineError(f"{path}: can't be read: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise GrainlineError(f"{path}: is no table of comma-separated values: {error}.") from None
    header = [name.strip() for name in rows[0]] if rows else []
    wanted = next((names for names in choices if set(names) <= set(header)), None)
    if wanted is None:
        missing = next((name for name in choices[0] if name not in header), choices[0][0])
        either = " or ".join(", ".join(names) for names in choices)
        raise GrainlineError(f"{path}: columns {either} are wanted; '{missing}' isn't there.{nearest(missing, header)}")
    if len(rows) < 2:
        raise GrainlineError(f"{path}: has no rows below its header.")
    columns = []
    for name in wanted:
        at = header.index(name)
        values = [_number(row, at, path, number, name) for number, row in enumerate(rows[1:], 2)]
        columns.append(np.array(values, dtype=np.float64))
    return tuple(columns)


def _number(row: Sequence[str], at: int, path: Path, number: int, name: str) -> float:
    text = row[at].strip() if at < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise GrainlineError(f"{path}: row {number}, {name}: must be a number, not '{text}'.")
    return value
