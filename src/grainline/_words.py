"""Numbers and text as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Control characters become their pictures (U+2400 …); what neither HTML nor UTF-8 can hold becomes U+FFFD.
_UNPRINTABLE = (
    {c: 0x2400 + c for c in range(0x20) if chr(c) not in "\n\t"}
    | {0x7F: 0x2421, 0xFFFE: 0xFFFD, 0xFFFF: 0xFFFD}
    | dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000)), 0xFFFD)
)


def printable(text: str) -> str:
    """Any string as one that a page, an SVG file and a terminal can hold; line ends become ``\\n``."""
    return text.replace("\r\n", "\n").translate(_UNPRINTABLE)


def count(number: float) -> str:
    """Three digits: 950, 12.3k, 1.23M, 4.5B."""
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= 0.9995 * factor:
            return f"{_three(number / factor)}{unit}"
    return _three(number)


def size(byte_count: float) -> str:
    """Decimal units: 5.2 MB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if byte_count >= factor:
            return f"{_three(byte_count / factor)} {unit}"
    return f"{byte_count:.0f} bytes"


def span(seconds: float) -> str:
    """A time of any length in one unit and three digits: 850 ns, 12.3 µs, 4.5 ms, 38 s."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * factor:
            return f"{_three(seconds / factor)} {unit}"
    return f"{_three(seconds * 1e9)} ns" if seconds else "0 s"


def percent(share: float) -> str:
    """0.031 → 3.1 %, 0.31 → 31 %."""
    hundredths = abs(share) * 100
    return f"{hundredths:.1f}\N{NO-BREAK SPACE}%" if hundredths < 9.95 else f"{hundredths:.0f}\N{NO-BREAK SPACE}%"


def power(number: float) -> str:
    """1.0 × 10¹³."""
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def join(items: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def _three(number: float) -> str:
    if number and abs(number) < 1:
        return f"{number:.3g}"
    digits = max(0, 2 - int(math.log10(abs(number)))) if number else 0
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
