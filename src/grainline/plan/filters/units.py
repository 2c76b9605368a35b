"""Units of work that a message takes, by its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grainline.documents import GrainlineError
from grainline.documents.filters import Work
from grainline.plan.filters.tables import PROFILE, SIZES, Column, read_columns


@dataclass(frozen=True)
class Units:
    """Of one message; `beyond` says how far its size lies outside what the fit was made on (1: inside)."""

    units: float
    beyond: float = 1.0


def units_of(work: Work | None, size_bytes: float, folder: Path) -> Units:
    """What `work` says of a message of so many bytes; GrainlineError where its file says nothing of them."""
    if work is None:
        return Units(0.0)
    if work.per_bytes is not None:
        return Units(work.times * size_bytes / work.per_bytes)
    if work.profile is not None:
        size, seconds = read_columns(folder / work.profile, PROFILE)[:2]
        return _told(_line(size, seconds, size_bytes), work, size_bytes, size)
    assert work.table is not None
    path = folder / work.table
    size, units = read_columns(path, SIZES)
    if (size <= 0).any() or (units < 0).any():
        raise GrainlineError(f"{path}: bytes must be positive, and units not negative.")
    if work.fit is None:
        order = np.argsort(size)
        if not size[order[0]] <= size_bytes <= size[order[-1]]:
            raise GrainlineError(
                f"{path}: has rows for {size.min():,.0f} to {size.max():,.0f} bytes, and messages have "
                f"{size_bytes:,.0f}. Add rows, or set work.fit to linear, cubic or power"
            )
        return Units(work.times * float(np.interp(size_bytes, size[order], units[order])))
    fitted = {"linear": _line, "cubic": _cubic, "power": _power}[work.fit](size, units, size_bytes)
    return _told(fitted, work, size_bytes, size)


def _told(units: float, work: Work, size_bytes: float, known: Column) -> Units:
    beyond = max(size_bytes / float(known.max()), float(known.min()) / size_bytes, 1.0)
    return Units(work.times * max(units, 0.0), beyond)


def _line(size: Column, units: Column, at: float) -> float:
    """By least squares; of one size, its mean."""
    if np.ptp(size) == 0:
        return float(units.mean())
    slope, constant = np.polyfit(size / size.max(), units, 1)
    return float(slope * at / size.max() + constant)


def _cubic(size: Column, units: Column, at: float) -> float:
    """k₃x³ + k₂x² + k₁x by least squares, as in the reference's fit of wall time to event size."""
    x = size / size.max()
    found, *_ = np.linalg.lstsq(np.stack([x, x**2, x**3], axis=1), units, rcond=None)
    y = at / size.max()
    return float(found @ np.array([y, y**2, y**3]))


def _power(size: Column, units: Column, at: float) -> float:
    """By least squares of logarithms."""
    exponent, constant = np.polyfit(np.log(size), np.log(units), 1)
    return float(np.exp(constant + exponent * np.log(at)))
