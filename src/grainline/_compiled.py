"""The compiled core: one shared library of C functions, found beside this file where a compiler built it.

Each room declares what it calls: ``function("gl_name", [argument types], result type)``. No torch here.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

OFF = "GRAINLINE_NO_NATIVE"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, or None where there is none, it is of another machine, or GRAINLINE_NO_NATIVE is set."""
    path = Path(__file__).with_name("_native.so")
    if os.environ.get(OFF) or not path.is_file():
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def function(name: str, arguments: Sequence[Any], result: Any = None) -> Callable[..., Any] | None:
    """The C function `name`, or None where the library hasn't got it."""
    found = getattr(library(), name, None)
    if found is None:
        return None
    found.argtypes, found.restype = list(arguments), result
    typed: Callable[..., Any] = found
    return typed


def left_out() -> str:
    """Files, by name, whose flags the compiler refused when the library was built; empty where there is none."""
    found = function("gl_left_out", [], ctypes.c_char_p)
    return "" if found is None else found().decode()
