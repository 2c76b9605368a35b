"""Names as people read them."""

from __future__ import annotations

import math

BUILTIN_PARTS = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "ru": "Russian",
    "ja": "Japanese",
    "zh": "Chinese",
    "fa": "Persian",
    "code": "Python code",
}
"""What the parts of the corpus that ships with the package are."""


def bits(value: float | None) -> str:
    """Bits per byte to three places; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"
